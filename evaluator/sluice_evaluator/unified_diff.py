"""Unified diffs: parsed, and applied strictly (headers and places as they say) or fuzzily (by content).

Models count lines badly: a diff whose content is right often has wrong numbers. Both ways are reported apart, so that
neither hides in the other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_NEWLINE = "\\ No newline at end of file"


class DiffError(ValueError):
    """A diff cannot be parsed or applied; the message says where."""


@dataclass(frozen=True, kw_only=True)
class Hunk:
    """One hunk."""

    start: int
    """First line of the old file, from 1; 0 for an empty one."""
    old_count: int
    """Lines of the old file, as the header says."""
    new_count: int
    """Lines of the new file, as the header says."""
    before: tuple[str, ...]
    """Old lines: context and removed ones."""
    after: tuple[str, ...]
    """New lines: context and added ones."""


@dataclass(frozen=True, kw_only=True)
class FileDiff:
    """The hunks of one file."""

    old: str
    """Old path; `/dev/null` for a new file."""
    new: str
    """New path; `/dev/null` for a deleted one."""
    hunks: tuple[Hunk, ...]
    """In order."""


def _path(header: str) -> str:
    name = header.split("\t", 1)[0].strip()
    return name[2:] if name[:2] in ("a/", "b/") else name


def _read_hunk(lines: list[str], position: int, strict: bool) -> tuple[Hunk, int]:
    match = _HUNK.match(lines[position])
    if match is None:
        raise DiffError(f"line {position + 1}: not a hunk header")
    start, old_count, _, new_count = (1 if group is None else int(group) for group in match.groups())
    before: list[str] = []
    after: list[str] = []
    position += 1
    while position < len(lines):
        line = lines[position]
        counted = len(before) >= old_count and len(after) >= new_count
        if line.startswith(_NO_NEWLINE):
            position += 1
            continue
        if line.startswith(("@@ ", "diff --git ")) or (counted and strict) or (counted and line[:4] == "--- "):
            break
        if line[:1] == "-":
            before.append(line[1:])
        elif line[:1] == "+":
            after.append(line[1:])
        elif line[:1] == " " or not line:
            before.append(line[1:])
            after.append(line[1:])
        else:
            break
        position += 1
    if not strict:
        while before and after and not before[-1] and not after[-1] and len(before) > old_count:
            before.pop()
            after.pop()
    return Hunk(
        start=start, old_count=old_count, new_count=new_count, before=tuple(before), after=tuple(after)
    ), position


def parse(text: str, *, strict: bool = True) -> list[FileDiff]:
    """Parse a diff.

    Args:
        text: the diff; text around it is skipped.
        strict: the counts in the headers must be right; else the lines decide.

    Raises:
        DiffError: there is no diff, or a hunk does not hold what its header says.
    """
    lines = text.splitlines()
    files: list[FileDiff] = []
    position = 0
    while position < len(lines):
        if not (lines[position].startswith("--- ") and lines[position + 1 : position + 2]):
            position += 1
            continue
        if not lines[position + 1].startswith("+++ "):
            raise DiffError(f"line {position + 2}: expected +++ after ---")
        old, new = _path(lines[position][4:]), _path(lines[position + 1][4:])
        position += 2
        hunks: list[Hunk] = []
        while position < len(lines) and lines[position].startswith("@@"):
            hunk, position = _read_hunk(lines, position, strict)
            if strict and (len(hunk.before), len(hunk.after)) != (hunk.old_count, hunk.new_count):
                raise DiffError(
                    f"{new}: a hunk says {hunk.old_count} old and {hunk.new_count} new lines and has "
                    f"{len(hunk.before)} and {len(hunk.after)}"
                )
            hunks.append(hunk)
        if not hunks:
            raise DiffError(f"{new}: no hunks")
        files.append(FileDiff(old=old, new=new, hunks=tuple(hunks)))
    if not files:
        raise DiffError("there is no unified diff")
    return files


def _locate(lines: list[str], hunk: Hunk, offset: int, floor: int, strict: bool, name: str) -> int:
    wanted = list(hunk.before)
    expected = max(0, hunk.start - 1 if hunk.before else hunk.start) + offset
    if lines[expected : expected + len(wanted)] == wanted and expected >= floor:
        return expected
    if strict:
        raise DiffError(f"{name}: the hunk at line {hunk.start} does not match")
    places = [
        start for start in range(floor, len(lines) - len(wanted) + 1) if lines[start : start + len(wanted)] == wanted
    ]
    if not wanted or not places:
        raise DiffError(f"{name}: no place for the hunk at line {hunk.start}")
    return min(places, key=lambda start: abs(start - expected))


def apply(files: Mapping[str, str], diffs: list[FileDiff], *, strict: bool = True) -> dict[str, str]:
    """Apply a parsed diff to texts by path; all of it, or an error.

    Args:
        files: texts by path.
        diffs: what to apply.
        strict: hunks must match at their line; else at the nearest place where their old lines stand.

    Raises:
        DiffError: a file is missing or a hunk does not match.
    """
    result = dict(files)
    for diff in diffs:
        new_file = diff.old == "/dev/null"
        if not new_file and diff.old not in result:
            raise DiffError(f"{diff.old}: no such file")
        if new_file and diff.new in result:
            raise DiffError(f"{diff.new}: exists already")
        text = "" if new_file else result[diff.old]
        lines, offset, floor = text.splitlines(), 0, 0
        for hunk in diff.hunks:
            start = _locate(lines, hunk, offset, floor, strict, diff.new)
            lines[start : start + len(hunk.before)] = hunk.after
            offset += len(hunk.after) - len(hunk.before)
            floor = start + len(hunk.after)
        if not new_file:
            del result[diff.old]
        if diff.new != "/dev/null":
            result[diff.new] = "\n".join(lines) + ("\n" if lines else "")
    return result
