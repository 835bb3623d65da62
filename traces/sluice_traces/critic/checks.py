"""The checks behind the critic's labels, each a pure function of text; None means that it cannot be said."""

import ast
import itertools
import json
import re
import warnings
from collections import Counter
from functools import lru_cache
from typing import Any

_FENCE = re.compile(r"```([\w+-]*)[ \t]*")
_SPECIAL_TOKENS = re.compile(
    r"<\|[a-z_0-9]{2,40}\|>|</?s>|<pad>|<unk>|<bos>|<eos>|\[/?INST\]|<<SYS>>|\ufffd|<image>|<0x[0-9A-F]{2}>"
)
_FILLER = re.compile(
    r"(?i)\bas an? (?:ai|language model|ai language model)\b|\blorem ipsum\b|\byour code here\b"
    r"|\b(?:rest|remainder) of (?:the |your )?code (?:here|goes here|remains)|\bimplementation goes here\b"
    r"|\bI(?:'m| am) sorry, but I (?:can(?:'t|not)|am unable)\b|\bI hope this helps\b"
)
_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_WORD = re.compile(r"\S+")
_NGRAM = 8
_MAX_NGRAM_REPEATS = 4
_MAX_LINE_REPEATS = 4
_MAX_DUPLICATE_SHARE = 0.3
_MIN_LINES = 10
_CHARACTER_RUN = re.compile(r"([^\s=#*/_.-])\1{80}")


def code_of(response: str, languages: tuple[str, ...]) -> str | None:
    """The program in a response: its fenced blocks of the language, or all of it when nothing is fenced.

    None when a fence is not closed, or only other languages are fenced.
    """
    if "```" not in response:
        return response
    blocks = _fenced(response)
    if response.count("```") != 2 * len(blocks):
        return None
    chosen = [body for language, body in blocks if language in languages or not language]
    return "\n".join(chosen) if chosen else None


def _fenced(response: str) -> list[tuple[str, str]]:
    """Language and body of every fenced block that is closed, in one pass: a response may be made of fences."""
    blocks: list[tuple[str, str]] = []
    language, body = "", list[str]()
    inside = False
    for line in response.split("\n"):
        fence = _FENCE.fullmatch(line)
        if inside and fence is not None and not fence[1]:
            blocks.append((language, "".join(body)))
            inside = False
        elif inside:
            body.append(line + "\n")
        elif fence is not None:
            language, body, inside = fence[1].lower(), [], True
    return blocks


def python_tree(code: str) -> ast.Module | None:
    """The syntax tree; None when the code is not Python that compiles."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
            compile(tree, "candidate", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    return tree


def python_names(tree: ast.Module) -> set[str]:
    """What a module defines at its top level: functions, classes, `Class.method`, assigned names."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            names |= {node.name, *(f"{node.name}.{each.name}" for each in inner)}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def typescript_names(code: str) -> set[str] | None:
    """What a TypeScript source declares anywhere; None when it has a syntax error.

    Raises:
        ImportError: the parser is not installed.
    """
    root = _typescript().parse(code.encode()).root_node
    if root.has_error:
        return None
    names: set[str] = set()
    nodes: list[tuple[Any, str]] = [(root, "")]
    while nodes:
        node, owner = nodes.pop()
        found = node.child_by_field_name("name")
        inside = owner
        if found is not None and node.type.endswith(("declaration", "declarator", "method_definition", "signature")):
            name = found.text.decode(errors="replace")
            names |= {name, f"{owner}.{name}"} if owner else {name}
            inside = name if node.type.endswith("class_declaration") else owner
        nodes += [(child, inside) for child in node.children]
    return names


@lru_cache(maxsize=1)
def _typescript() -> Any:
    from tree_sitter import Language, Parser
    from tree_sitter_typescript import language_typescript

    return Parser(Language(language_typescript()))


def is_json(text: str, required_keys: tuple[str, ...]) -> bool:
    """Whether a text, or the one fenced block in it, is JSON without repeated keys and with the required ones."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key is repeated")
        return dict(pairs)

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no JSON")

    body = code_of(text, ("json",))
    try:
        value = json.loads(body or "", object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return not required_keys or (isinstance(value, dict) and all(key in value for key in required_keys))


def is_unified_diff(text: str) -> bool:
    """Whether a text, or the fenced block in it, is a unified diff whose hunks have the lines that they announce."""
    body = code_of(text, ("diff", "patch"))
    if body is None:
        return False
    lines, index, files = body.strip("\n").split("\n"), 0, 0
    while index < len(lines):
        if lines[index].startswith("--- "):
            if index + 1 >= len(lines) or not lines[index + 1].startswith("+++ "):
                return False
            after = _hunks(lines, index + 2)
            if after is None:
                return False
            files, index = files + 1, after
        elif re.match(r"diff |index |new file|deleted file|similarity|rename |old mode|new mode|\s*$", lines[index]):
            index += 1
        else:
            return False
    return files > 0


def _hunks(lines: list[str], index: int) -> int | None:
    """Index behind the hunks that start at a line; None when there is none or a hunk does not add up."""
    start = index
    while index < len(lines) and (match := _HUNK.match(lines[index])):
        old, new = (int(count) if count is not None else 1 for count in match.groups())
        index += 1
        changed = False
        while index < len(lines) and (old > 0 or new > 0 or lines[index].startswith("\\")):
            mark = lines[index][:1] or " "
            if mark not in " +-\\":
                return None
            old -= mark in " -"
            new -= mark in " +"
            changed = changed or mark in "+-"
            index += 1
        if old or new or not changed:
            return None
    return index if index > start else None


def has_invalid_tokens(text: str) -> bool:
    """Whether markers of a chat template, replacement characters or control characters are left in a text."""
    return _SPECIAL_TOKENS.search(text) is not None or any(
        ord(character) < 32 and character not in "\n\t\r" for character in text
    )


def is_filler(text: str) -> bool:
    """Whether a text excuses itself or leaves the work to the reader."""
    return _FILLER.search(text) is not None


def is_repetitive(text: str) -> bool:
    """Whether a text runs in circles: a line, a phrase of eight words or a character again and again."""
    if _CHARACTER_RUN.search(text):
        return True
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 3]
    counts = Counter(lines)
    if lines and counts.most_common(1)[0][1] > _MAX_LINE_REPEATS and _consecutive(lines):
        return True
    if len(lines) >= _MIN_LINES and sum(counts.values()) - len(counts) > _MAX_DUPLICATE_SHARE * len(lines):
        return True
    words = _WORD.findall(text)
    grams = Counter(tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1))
    return bool(grams) and grams.most_common(1)[0][1] > _MAX_NGRAM_REPEATS


def _consecutive(lines: list[str]) -> bool:
    run = longest = 1
    for before, line in itertools.pairwise(lines):
        run = run + 1 if line == before else 1
        longest = max(longest, run)
    return longest > _MAX_LINE_REPEATS
