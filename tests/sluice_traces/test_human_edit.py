"""A person's edit of a step: written by hand, preferred to what the step answered, with who said so."""

import json
from pathlib import Path

import pytest

from sluice_artifacts.reporting import Reporter
from sluice_cli.main import main
from sluice_traces.worker import run
from trace_factory import label_job, step, trace, write_trace
from versions import part_rows, plain_text


def pairs(source: Path, output: Path, **fields) -> list[dict]:
    job = label_job(source, output, format="preference", holdout=0.0, **fields)
    return part_rows(run(job, Reporter(job)).dataset)


def correct(path: Path, *arguments: str) -> int:
    return main(["trace", "correct", str(path), "--step", "1", "--by", "reviewer-7", *arguments])


@pytest.fixture
def traced(tmp_path) -> Path:
    return write_trace(tmp_path / "s", trace("r", steps=[step(0), step(1, intent="buy the kettle")]))


def test_an_edit_of_a_passing_step_is_preferred_to_its_answer(traced, tmp_path):
    assert correct(traced, "--action", 'type_text("kettle")', "--outcome", "The search finds kettles.") == 0
    (pair,) = pairs(tmp_path / "s", tmp_path)
    assert pair["chosen"] == 'The search finds kettles.\ntype_text("kettle")'
    assert pair["rejected"].endswith("click(10, 20)")
    assert "buy the kettle" in pair["prompt"][1]["value"]
    metadata = pair["metadata"]
    assert (metadata["provenance"], metadata["label_reason"], metadata["corrected_by"]) == (
        "human_edit",
        "human_edit",
        "reviewer-7",
    )
    assert (metadata["step"], metadata["rejected_step"], metadata["action_type"]) == (1, 1, "type_text")


def test_an_edit_wins_over_a_retry(tmp_path):
    wrong = step(1, intent="p", success=False, observed_outcome="", last_action={"action_type": "wait"})
    path = write_trace(tmp_path / "s", trace("r", steps=[wrong, step(2, intent="p")]))
    assert [pair["metadata"]["provenance"] for pair in pairs(tmp_path / "s", tmp_path / "a")] == ["retry"]
    assert correct(path, "--action", "click(1, 2)") == 0
    (pair,) = pairs(tmp_path / "s", tmp_path / "b")
    assert (pair["chosen"], pair["metadata"]["provenance"]) == ("click(1, 2)", "human_edit")


def test_an_edit_that_changes_nothing_is_no_pair(traced, tmp_path):
    document = json.loads(traced.read_text())
    edited = document["steps"][1]
    edited["human_edit"] = {"last_action": edited["last_action"], "predicted_outcome": edited["predicted_outcome"]}
    other = step(3, human_edit={"last_action": {"action_type": "click", "params": {"x": 1, "y": 1}}})
    document["steps"].append(other)
    traced.write_text(json.dumps(document))
    assert [pair["metadata"]["step"] for pair in pairs(tmp_path / "s", tmp_path)] == [3]


def test_private_text_of_an_edit_is_redacted(traced, tmp_path):
    assert correct(traced, "--action", 'type_text("to joe@example.com")', "--by", "kim@example.com") == 0
    (pair,) = pairs(tmp_path / "s", tmp_path / "o")
    assert 'type_text("to [EMAIL_' in pair["chosen"]
    assert "@example" not in plain_text(tmp_path / "o")


def test_an_edit_is_carried_by_the_labeller(traced, tmp_path):
    assert correct(traced, "--action", "click(1, 2)") == 0
    assert main(["trace", "label", str(tmp_path / "s"), "-o", str(tmp_path / "l"), "--json"]) == 0
    labelled = json.loads((tmp_path / "l" / "acme" / "r.json").read_text())
    assert labelled["steps"][1]["human_edit"]["last_action"] == {"action_type": "click", "params": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--action", "jump(1)"], "is no action"),
        (["--action", "click(1, 2)", "--step", "9"], "0 steps with the index 9"),
        (["--action", "click(1, 2)", "--outcome", "\udcff"], "not UTF-8"),
    ],
)
def test_what_cannot_be_corrected_is_refused_and_nothing_is_written(traced, capsys, arguments, message):
    before = traced.read_bytes()
    assert correct(traced, *arguments) == 2
    assert message in capsys.readouterr().err
    assert traced.read_bytes() == before


def test_a_file_that_is_no_trace_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[]")
    assert correct(tmp_path / "x.json", "--action", "click(1, 2)") == 2
    assert correct(tmp_path / "none.json", "--action", "click(1, 2)") == 2
    said = capsys.readouterr().err
    assert "not_a_trace" in said and "vanished" in said
