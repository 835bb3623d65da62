"""Checks a PromQL expression against the catalogue: every series must exist, with the labels that are asked of it."""

import re

from sluice_operator.monitoring import catalogue
from sluice_operator.monitoring.rules import RECORDED

TARGET_LABELS = frozenset({"job", "instance", "le"})
"""Labels that Prometheus adds to every series of a target, and that of a histogram's buckets."""
KNOWN = {series: frozenset(metric.labels) for metric in catalogue.ALL for series in metric.all_series} | {
    name: frozenset(labels) for name, labels in RECORDED.items()
}
"""Labels of every series, by name."""

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"(?<![0-9.])(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(?P<labels>[^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\((?P<labels>[^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "on", "without", "ignoring", "inf", "nan"})


def series_of(expression: str) -> dict[str, set[str]]:
    """Return the series that an expression reads, each with the labels that select from it."""
    text = _RANGE.sub(" ", _GROUPING.sub(" ", _STRINGS.sub('""', expression)))
    found: dict[str, set[str]] = {}
    for match in _SELECTOR.finditer(text):
        name, rest = match["name"], text[match.end() :].lstrip()
        is_function = match["labels"] is None and rest.startswith("(")
        if not is_function and name.lower() not in _WORDS and not name.startswith("__"):
            found.setdefault(name, set()).update(_LABEL.findall(match["labels"] or ""))
    return found


def problems(expression: str) -> list[str]:
    """Return what is wrong with the names in an expression; empty when all are known."""
    found = series_of(expression)
    result = [f"no metric {name!r}" for name in found if name not in KNOWN]
    allowed: set[str] = set(TARGET_LABELS)
    for name, labels in found.items():
        known = KNOWN.get(name, frozenset(labels))
        allowed |= known
        result += [f"{name} has no label {label!r}" for label in sorted(labels - known - TARGET_LABELS)]
    grouped = {label.strip() for match in _GROUPING.finditer(expression) for label in match["labels"].split(",")}
    result += [f"nothing in it has the label {label!r}" for label in sorted(grouped - allowed - {""})]
    return result or ([] if found else ["it reads no metric"])
