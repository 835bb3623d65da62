"""What a version leaves out and mixes in: duplicates, leaked tasks, buckets, the critic's verdicts; all counted."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.jobs import FailureClass, LabelOutput
from sluice_artifacts import read_manifest
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_traces import shards
from sluice_traces.buckets import MAX_LINE_BYTES
from sluice_traces.dedup import Deduplicator, NearConfig
from sluice_traces.dedup.texts import row_text
from sluice_traces.tombstones import Forgotten, add_tombstones
from sluice_traces.worker import run
from trace_factory import label_job, step, trace, write_trace
from versions import document, lineage, part_rows, plain_text

LONG = "open the listing of the blue enamel teapot with the bamboo handle and read its description to the end"


def build(source, output, **fields) -> LabelOutput:
    job = label_job(source, output, **fields)
    return run(job, Reporter(job))


def failure(source, output, **fields) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        build(source, output, **fields)
    return caught.value


def manifest(output: LabelOutput) -> DatasetManifest:
    return read_manifest(output.dataset, DatasetManifest)


def write_runs(root: Path, intents: list[str]) -> None:
    """A run of one step for each intent, a minute apart."""
    for number, intent in enumerate(intents):
        started = f"2026-11-01T{number // 60:02d}:{number % 60:02d}:00Z"
        steps = [step(0, intent=intent)]
        write_trace(root, trace(f"run-{number:03d}", f"tenant-{number % 2}", steps, started_at=started))


def bucket(root: Path, name: str, rows: list[dict]) -> str:
    folder = root / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.as_uri() + "/"


def python(number: int, response: str | None = None, **fields) -> dict:
    code = f"def add_{number}(a, b):\n    return a + b + {number}"
    return {"kind": "python", "prompt": f"add with {number}", "response": response or code, **fields}


class TestDuplicates:
    def test_rows_that_say_the_same_leave_and_held_out_ones_stay(self, tmp_path):
        write_runs(tmp_path / "s", ["same"] * 6 + [f"other {i}" for i in range(3)] + ["same"])
        output = build(tmp_path / "s", tmp_path, duplicates={"exact": True})
        assert output.duplicates == {"exact_duplicate": 6}
        assert (output.rows, output.holdout_rows) == (3, 1)
        assert [row["metadata"]["run_id"] for row in part_rows(output.dataset, "holdout")] == ["run-009"]
        train = [row["metadata"]["run_id"] for row in part_rows(output.dataset)]
        assert sorted(train) == ["run-006", "run-007", "run-008"]

    def test_what_a_version_trained_on_is_no_test_for_the_next(self, tmp_path):
        write_runs(tmp_path / "s", ["seen before", *(f"thing {i}" for i in range(4))])
        first = build(tmp_path / "s", tmp_path, holdout=0.2, duplicates={"exact": True})
        assert "seen before" in str(part_rows(first.dataset))
        for name, intent in (("late-1", "seen before"), ("late-2", "never seen")):
            write_trace(tmp_path / "s", trace(name, steps=[step(0, intent=intent)], started_at="2026-11-05T00:00:00Z"))
        second = build(tmp_path / "s", tmp_path, holdout=0.4, duplicates={"exact": True}, parent=first.dataset.digest)
        held = str(part_rows(second.dataset, "holdout"))
        assert "never seen" in held
        assert "seen before" not in held
        assert "seen before" in str(part_rows(second.dataset))

    def test_near_duplicates_leave_only_where_asked(self, tmp_path):
        write_runs(tmp_path / "s", [LONG, LONG + " today", "another thing altogether"])
        assert build(tmp_path / "s", tmp_path / "a", holdout=0.0, duplicates={"exact": True}).rows == 3
        output = build(tmp_path / "s", tmp_path / "b", holdout=0.0, duplicates={"near": True})
        assert (output.rows, output.duplicates) == (2, {"near_duplicate": 1})

    def test_near_duplicates_are_those_of_a_search_in_memory(self, tmp_path):
        words = LONG.split()
        intents = [" ".join([*words[: 8 + n % 9], f"number {n % 7}", *words[n % 5 :]]) for n in range(60)]
        write_runs(tmp_path / "s", intents)
        plain = build(tmp_path / "s", tmp_path / "a", holdout=0.0)
        texts = [row_text(json.dumps(row).encode()) for row in part_rows(plain.dataset)]
        found = Counter(kind.value for kind, _ in Deduplicator(NearConfig()).find(texts).values())
        assert found["near_duplicate"] > 5
        output = build(tmp_path / "s", tmp_path / "b", holdout=0.0, duplicates={"exact": True, "near": True})
        assert output.duplicates == {name: count for name, count in found.items() if count}

    def test_the_same_words_with_other_screenshots_are_not_the_same(self, tmp_path):
        for name in ("a", "b", "c"):
            write_trace(tmp_path / "s", trace(name, steps=[step(0)]), screens=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "s" / "acme" / "c_screens" / "0000.png")
        output = build(
            tmp_path / "s", tmp_path, holdout=0.0, require_screenshot=True, duplicates={"near": True, "exact": True}
        )
        assert output.screens == 2
        assert (output.rows, output.duplicates) == (2, {"exact_duplicate": 1})

    def test_nothing_left_to_train_on_says_why(self, tmp_path):
        write_runs(tmp_path / "s", ["same"] * 10)
        error = failure(tmp_path / "s", tmp_path, duplicates={"exact": True})
        assert error.failure_class is FailureClass.DATA
        assert "9 repeat another" in error.message

    def test_a_threshold_that_cannot_be_is_a_user_error(self, tmp_path):
        write_runs(tmp_path / "s", ["a", "b"])
        error = failure(tmp_path / "s", tmp_path, duplicates={"near": True, "threshold": 2.0})
        assert error.failure_class is FailureClass.USER_ERROR


class TestLeaks:
    def suite(self, tmp_path, tasks=(LONG,)) -> str:
        path = tmp_path / "suite.json"
        path.write_text(json.dumps([{"task_id": str(i), "task_text": text} for i, text in enumerate(tasks)]))
        return path.as_uri()

    def test_rows_that_hold_a_task_of_a_suite_leave_and_are_counted(self, tmp_path):
        write_runs(tmp_path / "s", [f"Please {LONG}", "an honest thing", "another honest thing", f"now: {LONG}!"])
        output = build(tmp_path / "s", tmp_path, holdout=0.25, leaks={"suites": [self.suite(tmp_path)]})
        assert output.leaks == manifest(output).leaks == 2
        assert "teapot" not in plain_text(tmp_path / "datasets" / output.dataset.digest[7:])

    @pytest.mark.parametrize("content", [None, "{", "[]", '[{"id": 1}]'], ids=["missing", "broken", "empty", "no text"])
    def test_a_suite_that_is_not_known_stops_the_build(self, tmp_path, content):
        write_runs(tmp_path / "s", ["a", "b"])
        path = tmp_path / "suite.json"
        if content is not None:
            path.write_text(content)
        error = failure(tmp_path / "s", tmp_path, leaks={"suites": [path.as_uri()]})
        assert error.failure_class is FailureClass.DATA
        assert "suite.json" in error.message
        assert list(tmp_path.rglob("manifest.json")) == []


class TestMixture:
    def rule(self, tmp_path, rows=20, traces=50, code=50, **fields) -> dict:
        uri = bucket(tmp_path, "code", [python(number) for number in range(12)])
        buckets = [
            {"name": "agent", "weight": traces},
            {"name": "code", "weight": code, "source_uri": uri},
        ]
        return {"rows": rows, "buckets": buckets, **fields}

    def source(self, tmp_path) -> Path:
        write_runs(tmp_path / "s", [f"thing {number}" for number in range(10)])
        return tmp_path / "s"

    def test_rows_are_mixed_by_weight_with_a_plan_and_lineage(self, tmp_path):
        output = build(self.source(tmp_path), tmp_path, mixture=self.rule(tmp_path), critic={})
        assert (output.rows, output.holdout_rows, output.buckets) == (20, 1, {"agent": 10, "code": 10})
        columns = lineage(output.dataset)
        assert Counter(row["bucket"] for row in columns) == {"agent": 10, "code": 10}
        assert {row["trace"] for row in columns if row["bucket"] == "code"} == {"a.jsonl"}
        held = {row["metadata"]["run_id"] for row in part_rows(output.dataset, "holdout")}
        assert held.isdisjoint(row["metadata"]["run_id"] for row in part_rows(output.dataset))
        plan = document(output.dataset, "mixture.json")
        assert [(each["name"], each["quota"]) for each in plan["buckets"]] == [("agent", 10), ("code", 10)]
        assert sum(manifest(output).tenants.values()) == 10
        again = build(tmp_path / "s", tmp_path, mixture=self.rule(tmp_path), critic={}, parent=output.dataset.digest)
        assert again.dataset == output.dataset

    def test_new_rows_are_counted_once_whatever_the_repeats(self, tmp_path):
        rule = self.rule(tmp_path)
        first = build(self.source(tmp_path), tmp_path, mixture=rule, holdout=0.0)
        assert first.new_rows == len({row["digest"] for row in lineage(first.dataset)})
        write_trace(tmp_path / "s", trace("new", steps=[step(0, intent="brand new")]))
        second = build(tmp_path / "s", tmp_path, mixture=rule | {"rows": 22}, holdout=0.0, parent=first.dataset.digest)
        known = {row["digest"] for row in lineage(first.dataset)}
        assert second.new_rows == len({row["digest"] for row in lineage(second.dataset)} - known) >= 1

    def test_the_critic_decides_what_a_bucket_gives(self, tmp_path):
        uri = bucket(
            tmp_path,
            "code",
            [
                *(python(number) for number in range(8)),
                python(90, "def broken(:"),
                python(91, entry_point="wanted"),
                {"kind": "typescript", "prompt": "t", "response": "const a: number = 1;"},
                {"prompt": "no answer"},
            ],
        )
        (tmp_path / "corpus" / "code" / "b.jsonl").write_bytes(b'{"x"\n\n' + b"y" * (MAX_LINE_BYTES + 5))
        rule = {"rows": 8, "buckets": [{"name": "code", "weight": 1, "source_uri": uri}]}
        source = self.source(tmp_path)
        output = build(source, tmp_path, mixture=rule, critic={"languages": ["python"]})
        counts = manifest(output).buckets["code"]
        assert counts.rejected == {"syntax": 1, "missing_entry_point": 1, "not_executed": 1}
        assert counts.bad_rows == {"not_a_candidate": 2, "too_large": 1}
        assert (counts.candidates, counts.rows, counts.used_rows) == (14, 8, 8)
        rows = part_rows(output.dataset)
        assert {row["metadata"]["label_reason"] for row in rows} == {"critic_accepted"}
        assert {row["metadata"]["label"] for row in rows} == {"positive"}
        error = failure(source, tmp_path, mixture=rule, critic={}, max_bad_fraction=0.1)
        assert "3 of 14 lines are no candidates" in error.message and "a.jsonl:12" in error.message
        lenient = build(source, tmp_path / "l", mixture=rule | {"rows": 11}, critic={"require_accepted": False})
        assert lenient.buckets == {"code": 11}

    def test_tests_of_candidates_are_run_where_asked(self, tmp_path):
        tests = {"tests": "assert add_1(1, 1) == 3"}
        uri = bucket(tmp_path, "code", [python(1, **tests), python(1, "def add_1(a, b):\n    return 0", **tests)])
        rule = {"rows": 1, "buckets": [{"name": "code", "weight": 1, "source_uri": uri}]}
        output = build(self.source(tmp_path), tmp_path, mixture=rule, critic={"run_tests": True})
        assert manifest(output).buckets["code"].rejected == {"tests": 1}

    def test_private_text_of_a_bucket_is_redacted_or_kept_back(self, tmp_path):
        rows = [
            {"prompt": f"mail number {n} to joe@example.com", "response": "sent to joe@example.com"} for n in range(4)
        ]
        rule = {"rows": 4, "buckets": [{"name": "mail", "weight": 1, "source_uri": bucket(tmp_path, "mail", rows)}]}
        output = build(self.source(tmp_path), tmp_path / "o", mixture=rule)
        assert "joe@" not in plain_text(tmp_path / "o")
        assert output.redactions == {"email": 4}
        assert part_rows(output.dataset)[0]["conversations"][1]["value"] == "sent to [EMAIL_1]"
        error = failure(tmp_path / "s", tmp_path, mixture=rule, privacy={"on_finding": "quarantine"})
        assert "4 lines were read and left out: private 4" in error.message

    def test_tags_make_rows_rarer(self, tmp_path):
        rows = [{"prompt": f"p{n}", "response": "r", "tags": ["ocr"] if n < 10 else []} for n in range(20)]
        rule = {
            "rows": 11,
            "tag_weights": {"ocr": 0.1},
            "buckets": [{"name": "b", "weight": 1, "source_uri": bucket(tmp_path, "b", rows)}],
        }
        texts = [
            row["conversations"][0]["value"]
            for row in part_rows(build(self.source(tmp_path), tmp_path, mixture=rule).dataset)
        ]
        assert sum(text in {f"p{n}" for n in range(10)} for text in texts) == 1

    @pytest.mark.parametrize(
        ("rule", "fields", "failure_class", "message"),
        [
            ({"rows": 0}, {}, FailureClass.USER_ERROR, "rows is 0"),
            ({"rows": 900}, {}, FailureClass.DATA, "bucket agent: 450 rows from 9"),
            ({}, {"format": "preference"}, FailureClass.USER_ERROR, "a mixture is of supervised rows"),
            (
                {"buckets": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]},
                {},
                FailureClass.USER_ERROR,
                "one bucket",
            ),
        ],
    )
    def test_a_mixture_that_cannot_be_made_is_refused(self, tmp_path, rule, fields, failure_class, message):
        error = failure(self.source(tmp_path), tmp_path, mixture=self.rule(tmp_path) | rule, **fields)
        assert error.failure_class is failure_class
        assert message in error.message

    def test_an_empty_bucket_is_an_error(self, tmp_path):
        rule = {"rows": 4, "buckets": [{"name": "b", "weight": 1, "source_uri": (tmp_path / "none").as_uri()}]}
        assert "bucket b: no rows" in failure(self.source(tmp_path), tmp_path, mixture=rule).message


class TestShards:
    def test_groups_and_shards_are_cut_by_rows_alone(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shards, "GROUP_ROWS", 4)
        monkeypatch.setattr(shards, "SHARD_ROWS", 8)
        write_runs(tmp_path / "s", [f"thing {number}" for number in range(21)])
        output = build(tmp_path / "s", tmp_path, holdout=0.0)
        folder = Path(output.dataset.uri.removeprefix("file://"))
        paths = sorted(folder.glob("train-*.parquet"))
        files = [pq.ParquetFile(path) for path in paths]
        assert [file.metadata.num_rows for file in files] == [8, 8, 5]
        assert [file.metadata.row_group(0).num_rows for file in files] == [4, 4, 4]
        assert {file.metadata.row_group(0).column(0).compression for file in files} == {"ZSTD"}
        assert len(part_rows(output.dataset)) == 21
        monkeypatch.setattr(shards, "_PARSE_BYTES", 100)
        assert build(tmp_path / "s", tmp_path / "again", holdout=0.0).dataset.digest == output.dataset.digest

    def test_every_row_names_its_trace_and_step(self, tmp_path):
        write_runs(tmp_path / "s", ["a", "b", "c"])
        output = build(tmp_path / "s", tmp_path)
        for row, column in zip(part_rows(output.dataset), lineage(output.dataset), strict=True):
            found = json.loads((tmp_path / "s" / column["trace"]).read_text())
            assert found["run_id"] == row["metadata"]["run_id"]
            assert found["steps"][row["metadata"]["step"]]["intent"] in row["conversations"][1]["value"]

    def test_counts_tell_tenants_and_what_privacy_kept_back(self, tmp_path):
        write_runs(tmp_path / "s", ["a", "b", "mail joe@example.com", "d"])
        write_trace(tmp_path / "s", trace("joe@example.com"))
        output = build(tmp_path / "s", tmp_path, holdout=0.0, privacy={"on_finding": "quarantine"})
        assert output.tenants == manifest(output).tenants == {"tenant-0": 1, "tenant-1": 2}
        assert output.quarantined == 2
        assert document(output.dataset, "report.json")["tenants"] == output.tenants


class TestStanding:
    def gone(self, source: Path, *numbers: int) -> None:
        for number in numbers:
            (source / f"tenant-{number % 2}" / f"run-{number:03d}.json").unlink()

    @pytest.mark.parametrize("row_format", ["sft", "preference"])
    def test_rows_stay_when_their_traces_go(self, tmp_path, row_format):
        source = tmp_path / "s"
        for number in range(6):
            wrong = step(
                0, intent=f"p{number}", success=False, observed_outcome="", last_action={"action_type": "wait"}
            )
            edit = {"last_action": {"action_type": "wait", "params": {}}, "edited_by": "r"}
            right = step(1, intent=f"p{number}", **({"human_edit": edit} if number == 1 else {}))
            started = f"2026-11-01T00:{number:02d}:00Z"
            write_trace(source, trace(f"run-{number:03d}", f"tenant-{number % 2}", [wrong, right], started_at=started))
        fields = {"format": row_format, "append": True, "holdout": 0.34}
        first = build(source, tmp_path, **fields)
        self.gone(source, 1, 5)
        second = build(source, tmp_path, **fields, parent=first.dataset.digest)
        for part in ("train", "holdout"):
            assert part_rows(second.dataset, part) == part_rows(first.dataset, part)
        assert second.kept_rows == manifest(second).kept_rows > 0
        assert second.new_rows == 0
        assert build(source, tmp_path, **fields, parent=second.dataset.digest).dataset == second.dataset
        without = build(source, tmp_path / "b", **fields | {"append": False})
        assert without.rows + without.holdout_rows < first.rows + first.holdout_rows

    def test_screenshots_of_rows_that_stay_stay(self, tmp_path):
        source = tmp_path / "s"
        for name, colour in (("a", "red"), ("b", "blue")):
            write_trace(source, trace(name, steps=[step(0, intent=name)]), screens=True)
            Image.new("RGB", (2, 2), colour).save(source / "acme" / f"{name}_screens" / "0000.png")
        fields = {"require_screenshot": True, "holdout": 0.0, "append": True}
        first = build(source, tmp_path, **fields)
        (source / "acme" / "a.json").unlink()
        (source / "acme" / "a_screens" / "0000.png").unlink()
        second = build(source, tmp_path, **fields, parent=first.dataset.digest)
        assert part_rows(second.dataset) == part_rows(first.dataset)
        assert manifest(second).screens == manifest(first).screens

    def test_the_forgotten_do_not_stay(self, tmp_path):
        write_runs(tmp_path / "s", [f"thing {n}" for n in range(6)])
        first = build(tmp_path / "s", tmp_path, append=True)
        self.gone(tmp_path / "s", 1, 2)
        uri = (tmp_path / "datasets").as_uri() + "/"
        add_tombstones(uri, [Forgotten(tenant_id="tenant-1", run_id="run-001")], {})
        second = build(tmp_path / "s", tmp_path, append=True, parent=first.dataset.digest)
        said = str(part_rows(second.dataset) + part_rows(second.dataset, "holdout"))
        assert "run-001" not in said
        assert "run-002" in said

    def test_a_mixture_cannot_stand(self, tmp_path):
        write_runs(tmp_path / "s", ["a", "b"])
        rule = {"rows": 2, "buckets": [{"name": "agent", "weight": 1}]}
        assert "append" in failure(tmp_path / "s", tmp_path, append=True, mixture=rule).message
