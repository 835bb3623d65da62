"""Edits as unified diffs; strict and fuzzy are tasks of their own, so that bad line counts do not hide good edits."""

import difflib

from sluice_evaluator.reference import BuiltinTask, make

_EDITS: tuple[tuple[str, str, dict[str, str], dict[str, str]], ...] = (
    (
        "rename", "Rename the function `area` to `surface` in shapes.py, and its call.",
        {"shapes.py": "def area(w, h):\n    return w * h\n\n\nprint(area(2, 3))\n"},
        {"shapes.py": "def surface(w, h):\n    return w * h\n\n\nprint(surface(2, 3))\n"},
    ),
    (
        "guard", "Let `mean` in stats.py return 0.0 for an empty list.",
        {"stats.py": "def mean(xs):\n    return sum(xs) / len(xs)\n"},
        {"stats.py": "def mean(xs):\n    if not xs:\n        return 0.0\n    return sum(xs) / len(xs)\n"},
    ),
    (
        "config", "Set the port in app.ini to 8081 and turn debug off.",
        {"app.ini": "[server]\nhost = 127.0.0.1\nport = 8080\n\n[log]\nlevel = info\ndebug = on\n"},
        {"app.ini": "[server]\nhost = 127.0.0.1\nport = 8081\n\n[log]\nlevel = info\ndebug = off\n"},
    ),
    (
        "delete", "Delete the second paragraph of text.md.",
        {"text.md": "one\n\ntwo\n\nthree\n"}, {"text.md": "one\n\nthree\n"},
    ),
)  # fmt: skip


def unified(files: dict[str, str], expected: dict[str, str]) -> str:
    """Write the diff between two states."""
    parts: list[str] = []
    for path in files:
        before, after = files[path].splitlines(), expected[path].splitlines()
        parts += difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm="")
    return "\n".join(parts) + "\n"


def tasks() -> tuple[BuiltinTask, ...]:
    """Make the tasks."""
    made = []
    for name, request, files, expected in _EDITS:
        shown = "\n".join(f"--- {path} ---\n{text}" for path, text in files.items())
        gold = f"```diff\n{unified(files, expected)}```"
        operand = {"files": files, "expected": expected}
        for criterion in ("diff_applies", "diff_applies_fuzzy"):
            text = f"{request} Answer with a unified diff only.\n{shown}"
            made.append(make(f"diff/{name}/{criterion}", text, gold, (criterion, operand), cluster=f"diff/{name}"))
    return tuple(made)
