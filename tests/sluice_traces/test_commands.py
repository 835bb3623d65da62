"""`sluice trace label|review|convert`: flags, JSON, exit codes, and what an interruption leaves."""

import json
import os
from pathlib import Path

import pytest

from sluice_api.contracts.trace import LabelledTrace
from sluice_cli.main import main
from sluice_traces import label as label_module
from sluice_traces.progress import progress_bar
from trace_factory import many, step, trace, write_trace


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "traces"
    many(folder, 6)
    write_trace(folder, trace("shared", ""))
    return folder


def label(*arguments) -> int:
    return main(["trace", "label", *map(str, arguments)])


def convert(*arguments) -> int:
    return main(["trace", "convert", *map(str, arguments)])


def review(*arguments) -> int:
    return main(["trace", "review", *map(str, arguments)])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TestLabel:
    def test_a_folder_is_mirrored(self, source, tmp_path, capsys):
        assert label(source, "-o", tmp_path / "out") == 0
        found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
        assert found == sorted(path.relative_to(source).as_posix() for path in source.rglob("*"))
        assert "7 labelled, 0 up to date, 0 skipped" in capsys.readouterr().out

    def test_the_output_carries_what_the_seed_dropped(self, source, tmp_path):
        label(source, "--output", tmp_path / "out")
        raw = (tmp_path / "out" / "tenant-1" / "run-001.json").read_bytes()
        document = json.loads(raw)
        original = json.loads((source / "tenant-1" / "run-001.json").read_bytes())
        for name in (
            "run_id",
            "tenant_id",
            "status",
            "variant",
            "schema_version",
            "costs",
            "started_at",
            "session_name",
        ):
            assert document[name] == original[name]
        assert document["source_path"] == str(source / "tenant-1" / "run-001.json")
        assert document["label_summary"] == {"positive": 2, "negative": 1, "neutral": 0}
        assert document["review_status"] == "pending"
        labels = [(found["label"], found["label_reason"]) for found in document["steps"]]
        assert labels == [
            ("positive", "gate_verify_pass"),
            ("positive", "success_with_observed_delta"),
            ("negative", "escalation"),
        ]
        LabelledTrace.model_validate_json(raw)

    def test_json_summary(self, source, tmp_path, capsys):
        (source / "bad.json").write_text("{")
        assert label(source, "-o", tmp_path / "out", "--json") == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["files"] == 8
        assert summary["labelled"] == 7
        assert summary["label_summary"] == {"positive": 14, "negative": 6, "neutral": 0}
        assert summary["bad_files"] == [
            {"path": "bad.json", "reason": "truncated_json", "detail": "the document ends too early"}
        ]

    def test_a_single_file(self, source, tmp_path):
        assert label(source / "tenant-0" / "run-000.json", "-o", tmp_path / "out") == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["run-000.json"]

    def test_missing_input_exits_1(self, tmp_path, capsys):
        assert label(tmp_path / "nowhere", "-o", tmp_path / "out") == 1
        assert "no such file" in capsys.readouterr().err

    def test_a_single_bad_file_exits_1(self, tmp_path):
        (tmp_path / "bad.json").write_text("[]")
        assert label(tmp_path / "bad.json", "-o", tmp_path / "out") == 1

    def test_an_empty_folder_is_a_warning(self, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        assert label(tmp_path / "empty", "-o", tmp_path / "out") == 0
        assert "warning: no trace files" in capsys.readouterr().err
        assert label(tmp_path / "empty", "-o", tmp_path / "out", "--strict") == 2

    def test_corrupt_files_are_skipped_and_named(self, source, tmp_path, capsys):
        (source / "tenant-0" / "bad.json").write_bytes(b"\xff")
        assert label(source, "-o", tmp_path / "out") == 0
        assert "skipped tenant-0/bad.json: bad_utf8" in capsys.readouterr().err
        assert label(source, "-o", tmp_path / "out", "--strict") == 2

    def test_nothing_but_corrupt_files_cannot_be_judged(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "bad.json").write_text("nope")
        assert label(tmp_path / "in", "-o", tmp_path / "out") == 2

    def test_the_output_may_not_lie_in_the_input(self, source, capsys):
        assert label(source, "-o", source / "labelled") == 2
        assert "outside the input" in capsys.readouterr().err

    def test_an_interrupted_run_goes_on_where_it_stopped(self, source, tmp_path, monkeypatch, capsys):
        original, written = label_module.write_atomically, []

        def interrupt(target, content, **options):
            if len(written) == 3:
                raise KeyboardInterrupt
            written.append(target)
            original(target, content, **options)

        monkeypatch.setattr(label_module, "write_atomically", interrupt)
        assert label(source, "-o", tmp_path / "out") == 130
        assert "stopped after 3 of 7 files" in capsys.readouterr().err
        monkeypatch.setattr(label_module, "write_atomically", original)
        assert label(source, "-o", tmp_path / "out", "--json") == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["labelled"], summary["unchanged"]) == (4, 3)
        assert summary["label_summary"] == {"positive": 14, "negative": 6, "neutral": 0}

    def test_a_write_that_fails_leaves_nothing(self, source, tmp_path, monkeypatch):
        def full(self, target):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        assert label(source, "-o", tmp_path / "out") == 2
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []

    def test_a_changed_trace_is_labelled_again(self, source, tmp_path, capsys):
        label(source, "-o", tmp_path / "out")
        path = source / "tenant-0" / "run-000.json"
        path.write_text(json.dumps(trace("run-000", "tenant-0", [step(0, success=False)])))
        os.utime(path, ns=(1, 1))
        label(source, "-o", tmp_path / "out")
        document = json.loads((tmp_path / "out" / "tenant-0" / "run-000.json").read_bytes())
        assert document["label_summary"] == {"positive": 0, "negative": 1, "neutral": 0}

    def test_a_review_survives_labelling_again_only_while_the_trace_is_the_same(self, source, tmp_path):
        label(source, "-o", tmp_path / "out")
        for name in ("run-000", "run-002"):
            review(tmp_path / "out" / "tenant-0" / f"{name}.json", "--set", "approved")
        write_trace(source, trace("run-002", "tenant-0"))
        label(source, "-o", tmp_path / "out", "--force")
        statuses = [
            json.loads((tmp_path / "out" / "tenant-0" / f"{name}.json").read_bytes())["review_status"]
            for name in ("run-000", "run-002")
        ]
        assert statuses == ["approved", "pending"]


class TestReview:
    @pytest.fixture
    def labelled(self, source, tmp_path) -> Path:
        hostile = step(0, data="\x1b[2Jcloudflare", intent='say "hi"', last_action=None)
        write_trace(source, trace("hostile", "", [hostile, step(1)]), screens=True)
        label(source, "-o", tmp_path / "out")
        return tmp_path / "out" / "__shared__" / "hostile.json"

    def test_a_person_sees_steps_labels_reasons_and_screenshots(self, labelled, source, capsys):
        capsys.readouterr()
        assert review(labelled, "--screenshots-root", source) == 0
        shown = capsys.readouterr().out
        for text in ("run hostile", "escalation", "gate_verify_pass", "click(10, 20)", "(no_action)", "pending"):
            assert text in shown
        assert "__shared__/hostile_screens/0001.png" in shown
        assert "variant baseline" in shown

    def test_control_characters_of_a_page_never_reach_the_terminal(self, labelled, capsys):
        capsys.readouterr()
        review(labelled)
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "\\x1b[2Jcloudflare" in shown

    def test_json_holds_the_labelled_trace(self, labelled, source, capsys):
        capsys.readouterr()
        assert review(labelled, "--json", "--screenshots-root", source) == 0
        document = json.loads(capsys.readouterr().out)
        assert [found["action"] for found in document["steps"]] == ["(no_action)", "click(10, 20)"]
        assert document["steps"][0]["screenshot"] == "__shared__/hostile_screens/0000.png"

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"run_id": "x", "steps": 3}', '{"run_id": "x"}'])
    def test_missing_or_bad_json_exits_1(self, tmp_path, content, capsys):
        path = tmp_path / "t.json"
        if content is not None:
            path.write_text(content)
        assert review(path) == 1
        assert "sluice trace review:" in capsys.readouterr().err

    def test_a_trace_without_labels_is_labelled_for_the_view(self, source, capsys):
        assert review(source / "tenant-0" / "run-000.json") == 0
        shown = capsys.readouterr().out
        assert "(not labelled)" in shown
        assert "escalation" in shown

    def test_the_status_is_set_and_shown(self, labelled, capsys):
        assert review(labelled, "--set", "approved") == 0
        assert "review approved" in capsys.readouterr().out
        assert LabelledTrace.model_validate_json(labelled.read_bytes()).review_status == "approved"

    def test_only_a_labelled_trace_can_be_approved(self, source, capsys):
        assert review(source / "tenant-0" / "run-000.json", "--set", "approved") == 1
        assert "run sluice trace label first" in capsys.readouterr().err


class TestConvert:
    @pytest.fixture
    def labelled(self, source, tmp_path) -> Path:
        write_trace(
            source, trace("shots", "acme", [step(0, success=False, observed_outcome=""), step(1)]), screens=True
        )
        label(source, "-o", tmp_path / "labelled")
        return tmp_path / "labelled"

    def test_rows_with_screenshots(self, labelled, source, tmp_path):
        out = tmp_path / "rows.jsonl"
        assert convert("--traces", labelled, "--output", out, "--screenshots-root", source) == 0
        (row,) = lines(out)
        assert row["image"] == "acme/shots_screens/0001.png"
        assert row["metadata"]["run_id"] == "shots"

    def test_rows_without_screenshots_and_another_screen(self, labelled, tmp_path):
        out = tmp_path / "rows.jsonl"
        arguments = ["--no-require-screenshot", "--screen-width", 640, "--screen-height", 480]
        assert convert("--traces", labelled, "--output", out, *arguments) == 0
        found = lines(out)
        assert len(found) == 15
        assert all("640x480" in row["conversations"][1]["value"] for row in found)
        keys = [(row["metadata"]["tenant_id"], row["metadata"]["run_id"], row["metadata"]["step"]) for row in found]
        assert keys == sorted(keys)

    def test_negatives_go_to_files_of_their_own(self, labelled, tmp_path, capsys):
        capsys.readouterr()
        out = tmp_path / "rows.jsonl"
        arguments = ["--no-require-screenshot", "--keep-labels", "positive,negative", "--json"]
        assert convert("--traces", labelled, "--output", out, *arguments) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["rows"], summary["rejected_rows"]) == (15, 7)
        assert {row["metadata"]["label"] for row in lines(out)} == {"positive"}
        rejected = lines(tmp_path / "rows.rejected.jsonl")
        assert len(rejected) == 7
        assert all("conversations" not in row and row["rejected"] for row in rejected)
        assert (tmp_path / "rows.preference.jsonl").exists()

    @pytest.mark.parametrize("labels", ["", ",", " "])
    def test_no_label_to_keep_exits_1(self, labelled, tmp_path, labels):
        assert convert("--traces", labelled, "--output", tmp_path / "r.jsonl", "--keep-labels", labels) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param(["--keep-labels", "good"], id="unknown label"),
            pytest.param(["--screen-width", "0", "--no-require-screenshot"], id="no width"),
            pytest.param([], id="screenshots asked for and no root"),
            pytest.param(["--screenshots-root", "/nowhere/at/all"], id="no such root"),
        ],
    )
    def test_bad_usage_exits_2(self, labelled, tmp_path, arguments):
        assert convert("--traces", labelled, "--output", tmp_path / "r.jsonl", *arguments) == 2

    def test_missing_traces_exit_2(self, tmp_path):
        assert convert("--traces", tmp_path / "no", "--output", tmp_path / "r", "--no-require-screenshot") == 2

    def test_no_rows_exit_2(self, tmp_path, source, capsys):
        write_trace(tmp_path / "in", trace(steps=[step(0, success=False)]))
        label(tmp_path / "in", "-o", tmp_path / "labelled")
        out = tmp_path / "r.jsonl"
        assert convert("--traces", tmp_path / "labelled", "--output", out, "--no-require-screenshot") == 2
        assert "no step became a row" in capsys.readouterr().err

    def test_a_trace_that_was_never_labelled_is_named(self, source, labelled, tmp_path, capsys):
        write_trace(labelled, trace("raw"))
        arguments = ["--traces", labelled, "--output", tmp_path / "r.jsonl", "--no-require-screenshot"]
        assert convert(*arguments) == 0
        assert "skipped acme/raw.json: not_labelled" in capsys.readouterr().err
        assert convert(*arguments, "--strict") == 2

    def test_files_of_the_seeds_labeller_without_a_schema_version_are_read(self, labelled, tmp_path):
        path = labelled / "tenant-0" / "run-000.json"
        document = json.loads(path.read_bytes())
        del document["schema_version"]
        path.write_text(json.dumps(document))
        assert convert("--traces", path, "--output", tmp_path / "r.jsonl", "--no-require-screenshot") == 0

    def test_the_same_input_gives_the_same_bytes(self, labelled, tmp_path):
        for name in ("a", "b"):
            convert("--traces", labelled, "--output", tmp_path / name, "--no-require-screenshot")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_progress_is_shown_on_a_terminal_only(capsys):
    for enabled in (False, True):
        with progress_bar("labelling", 10, enabled=enabled) as advance:
            for done in range(1, 11):
                advance(done)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "labelling" in shown.err
