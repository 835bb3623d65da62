"""The pages: complete, self-contained, well-formed, and deaf to markup in transcripts."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation_factory import report
from evaluator_commands import sluice
from sluice_api.contracts.evaluation import EvalReport
from sluice_evaluator.compare import compare
from sluice_evaluator.html import compare_page, scorecard_page
from sluice_evaluator.scorecard import evaluate

VOID = {"meta", "rect", "line", "br"}
ATTACK = "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>"


class Checker(HTMLParser):
    """Collects tags and text, and that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_data(self, data) -> None:
        self.text += data


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.links == []
    assert not {"script", "img", "link", "iframe"} & set(checker.tags)
    return checker


def with_output(made: EvalReport, output: str) -> EvalReport:
    results = [
        result.model_copy(update={"outcome": result.outcome.model_copy(update={"output": output})})
        for result in made.results
    ]
    return made.model_copy(update={"results": results})


def test_the_scorecard_page_shows_every_gate_and_escapes() -> None:
    scorecard = evaluate(eval_report=report([True] * 30 + [False] * 20), metric_overrides={"parser_validity": 0.9})
    scorecard = scorecard.model_copy(update={"metadata": {"refused_evidence": [ATTACK]}})
    page = checked(scorecard_page(scorecard))
    assert all(gate.name in page.text for gate in scorecard.gates)
    assert "input missing — gate skipped" in page.text
    assert ATTACK in page.text
    assert page.tags.count("svg") == 1
    for verdict in ("Pass", "Fail", "Missing"):
        assert verdict in page.text


def rectangles(page: str) -> list[dict[str, dict[str, float]]]:
    """Give, picture by picture, where its parts lie."""
    found = []
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        parts = {}
        for tag, name, rest in re.findall(r'<(rect|line) class="(\w+)"([^>]*)', picture):
            numbers = {key: float(value) for key, value in re.findall(r'(\w+)="([-\d.]+)"', rest)}
            left = numbers["x"] if tag == "rect" else numbers["x1"]
            parts[name] = {"left": left, "right": left + numbers.get("width", 0.0)}
        found.append(parts)
    return found


@pytest.mark.parametrize("passed", [0, 1, 20, 21, 22, 23, 39, 40])
def test_intervals_are_drawn_around_their_values_and_on_the_right_side_of_the_threshold(passed: int) -> None:
    scorecard = evaluate(eval_report=report([True] * passed + [False] * (40 - passed)))
    gate = scorecard.gates[0]
    (parts,) = rectangles(scorecard_page(scorecard))
    middle = (parts["mark"]["left"] + parts["mark"]["right"]) / 2
    assert parts["span"]["left"] - 0.2 <= middle <= parts["span"]["right"] + 0.2
    assert (middle >= parts["limit"]["left"]) == gate.passed
    assert (middle >= parts["zone"]["left"]) == gate.passed
    assert (parts["span"]["left"] >= parts["limit"]["left"]) == (gate.interval[0] >= gate.threshold)
    for part in parts.values():
        assert 0 <= part["left"] <= part["right"] <= 220


def test_the_scorecard_page_says_what_the_comparison_was_charged() -> None:
    record = {
        "verdict": "Better", "p_value": 0.0215, "level": 0.0304, "candidate": 1, "spent": 0.0304, "budget": 0.05,
    }  # fmt: skip
    scorecard = evaluate().model_copy(update={"metadata": {"comparison": record}})
    page = checked(scorecard_page(scorecard))
    assert "p = 0.0215 at a level of 0.0304; comparison number 1 with this champion" in page.text
    assert "0.0304 of the error budget of 0.05 spent" in page.text
    assert "Gates: 0 Pass, 0 Fail, 9 Missing, 0 Inconclusive" in page.text


def test_the_comparison_page_shows_both_sides_of_what_differs() -> None:
    baseline = with_output(report([True, True, False, True]), f"baseline says {ATTACK}")
    candidate = with_output(report([True, False, True, True]), "x" * 10_000)
    page = checked(compare_page(compare(baseline, candidate), baseline, candidate))
    assert page.tags.count("details") == 2
    assert "Regressions (1)" in page.text
    assert "Improvements (1)" in page.text
    assert f"baseline says {ATTACK}" in page.text
    assert "x" * 4000 + "\n…" in page.text
    shown = compare_page(compare(baseline, candidate), baseline, candidate)
    assert shown.count("<details open>") == 1
    assert shown.index("Regressions") < shown.index("<details open>") < shown.index("Improvements")
    (parts,) = rectangles(shown)
    assert parts["span"]["left"] < parts["limit"]["left"] < parts["span"]["right"]
    same = checked(compare_page(compare(baseline, baseline), baseline, baseline))
    assert same.text.count("None.") == 2


def test_the_commands_write_the_pages(tmp_path: Path) -> None:
    made = tmp_path / "report.json"
    made.write_text(report([True] * 20 + [False] * 20).model_dump_json())
    for argv in (
        ("eval", "compare", "--baseline", str(made), "--candidate", str(made)),
        ("scorecard", "--eval-report", str(made), "--tier", "base"),
    ):
        page = tmp_path / "pages" / f"{argv[0]}.html"
        assert sluice(*argv, "--html", str(page)) == 0
        checked(page.read_text())


@pytest.mark.parametrize(("index", "verdict"), [(0, "Better"), (1, "Better"), (9, "Inconclusive")])
def test_a_later_candidate_of_a_lineage_needs_more(tmp_path: Path, capsys, index: int, verdict: str) -> None:
    import json

    baseline, candidate = tmp_path / "b.json", tmp_path / "c.json"
    baseline.write_text(report([False] * 7 + [True] * 40).model_dump_json())
    candidate.write_text(report([True] * 47).model_dump_json())
    arguments = ("--baseline", str(baseline), "--candidate", str(candidate), "--json", "--lineage-index", str(index))
    assert sluice("eval", "compare", *arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == verdict
    assert document["alpha"] == pytest.approx(0.05 if not index else 0.05 * 6 / (3.141592653589793 * index) ** 2)
