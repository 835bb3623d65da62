"""The trace exporter: names, content, what may go wrong, and that readers understand what it writes."""

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sluice_api.contracts.trace import Costs, RunStatus, Trace, TraceAction, TraceStep, Variant
from sluice_runtime.exporter import FinishedRun, TraceExporter, run_file_stem, tenant_folder
from trace_factory import PNG

START = datetime(2026, 11, 1, 10, 0, 0, 250_000, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32


def finished(**fields):
    """A completed run of one step, unless fields say otherwise."""
    step = TraceStep(
        step_index=0,
        intent="open the listing",
        type="act",
        success=True,
        data="gate:PASS",
        steps_used=1,
        duration=0.5,
        last_action=TraceAction(action_type="click", params={"x": 1, "y": 2}),
        envelope={"prompt": "<page>"},
    )
    defaults = {
        "status": RunStatus.COMPLETED,
        "started_at": START,
        "ended_at": START + timedelta(seconds=12.5),
        "run_id": "run-1",
        "tenant_id": "acme",
        "steps": [step],
    }
    return FinishedRun(**{**defaults, **fields})


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_run_becomes_a_document_of_schema_three(tmp_path):
    run = finished(
        session_name="session",
        plan_signature="plan",
        variant=Variant.CANDIDATE,
        model_digest=DIGEST,
        rollout="uid-1",
        costs=Costs(gpu=0.123456, claude=0.00004, proxy=0.00006),
    )
    uri = TraceExporter(tmp_path).export(run)
    path = tmp_path / "acme" / "run-1.json"
    assert uri == path.as_uri()
    document = json.loads(path.read_bytes())
    assert document.pop("steps") == [json.loads(step.model_dump_json()) for step in run.steps]
    assert document == {
        "schema_version": 3,
        "run_id": "run-1",
        "tenant_id": "acme",
        "session_name": "session",
        "plan_signature": "plan",
        "variant": "candidate",
        "status": "completed",
        "started_at": "2026-11-01T10:00:00.250Z",
        "ended_at": "2026-11-01T10:00:12.750Z",
        "total_time_s": 12.5,
        "costs": {"gpu": 0.1235, "claude": 0.0, "proxy": 0.0001, "total": 0.1236},
        "step_count": 1,
        "model_digest": DIGEST,
        "rollout": "uid-1",
        "request_id": "",
    }
    assert Trace.model_validate_json(path.read_bytes()).steps == run.steps


@pytest.mark.parametrize("status", ["completed", "halted", "cancelled", "paused"])
def test_every_end_is_exported(tmp_path, status):
    exporter = TraceExporter(tmp_path)
    assert exporter.export(finished(status=status)) is not None
    assert json.loads((tmp_path / "acme" / "run-1.json").read_bytes())["status"] == status
    assert exporter.exported == 1


@pytest.mark.parametrize("status", ["running", "", "COMPLETED"])
def test_what_is_no_end_is_not_exported(tmp_path, status):
    exporter = TraceExporter(tmp_path)
    assert exporter.export(finished(status=status)) is None
    assert (files(tmp_path), exporter.failed) == ([], 0)


def test_a_given_total_is_kept(tmp_path):
    TraceExporter(tmp_path).export(finished(costs=Costs(gpu=0.1, total=0.25)))
    assert json.loads((tmp_path / "acme" / "run-1.json").read_bytes())["costs"]["total"] == 0.25


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"run_id": "r", "run_key": "k", "session_name": "s"}, "r"),
        ({"run_id": "", "run_key": "k", "session_name": "s"}, "k"),
        ({"run_id": "", "session_name": "s"}, "s"),
        ({"run_id": ""}, "unknown"),
    ],
)
def test_identity_falls_back(tmp_path, names, expected):
    TraceExporter(tmp_path).export(finished(**names))
    assert json.loads((tmp_path / "acme" / f"{expected}.json").read_bytes())["run_id"] == expected


def test_runs_without_a_tenant_share_a_folder_and_keep_no_tenant(tmp_path):
    TraceExporter(tmp_path).export(finished(tenant_id=""))
    assert json.loads((tmp_path / "__shared__" / "run-1.json").read_bytes())["tenant_id"] == ""


@pytest.mark.parametrize(
    "hostile", ["../../etc", "/etc/passwd", "..", ".", "a/b", "a\\b", "a\0b", "x" * 500, "%2e%2e", "ü"]
)
def test_no_name_leaves_its_folder(tmp_path, hostile):
    root = tmp_path / "root"
    uri = TraceExporter(root).export(finished(run_id=hostile, tenant_id=hostile))
    assert uri is not None
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.parent.parent == root
    document = json.loads(path.read_bytes())
    assert (document["run_id"], document["tenant_id"]) == (hostile, hostile)


def test_names_that_were_changed_stay_apart():
    assert len({run_file_stem(name) for name in ("a/b", "a_b", "a b", "a\\b", "x" * 101, "x" * 102)}) == 6
    assert tenant_folder("__shared__") != tenant_folder("")
    assert run_file_stem("run-1.2_x") == "run-1.2_x"


@pytest.mark.parametrize("name", ["manifest", ".hidden", "#lock", "a_screens"])
def test_readers_take_every_name_for_a_trace(tmp_path, name):
    from sluice_traces.reader import is_trace_name

    uri = TraceExporter(tmp_path).export(finished(run_id=name, tenant_id=name))
    assert is_trace_name(uri.removeprefix(tmp_path.as_uri() + "/"))


def test_screenshots_lie_beside_the_trace_when_asked_for(tmp_path):
    from sluice_traces.reader import screens_folder

    run = finished(screenshots={0: PNG, 12: PNG + b"x", 12345: PNG})
    TraceExporter(tmp_path).export(run)
    assert files(tmp_path) == ["acme/run-1.json"]
    TraceExporter(tmp_path, include_screenshots=True).export(run)
    folder = tmp_path / screens_folder("acme/run-1.json")
    assert folder.name == "run-1_screens"
    assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "0012.png", "12345.png"]
    assert (folder / "0012.png").read_bytes() == PNG + b"x"


def test_a_lost_screenshot_does_not_cost_the_trace(tmp_path, caplog):
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "run-1_screens").write_text("in the way")
    with caplog.at_level(logging.ERROR):
        assert TraceExporter(tmp_path, include_screenshots=True).export(finished(screenshots={0: PNG})) is not None
    assert "screenshot of step 0" in caplog.text


class Recording:
    """A store that notes the order of writes, and fails where told."""

    def __init__(self, error=None):
        self.written = []
        self.error = error

    def write(self, uri, data, *, if_absent=False, if_match=None):
        if self.error is not None:
            raise self.error
        self.written.append(uri)
        return ""


def test_the_trace_appears_after_its_screenshots():
    store = Recording()
    exporter = TraceExporter("s3://bucket/traces", include_screenshots=True, store=store)
    exporter.export(finished(screenshots={1: PNG, 0: PNG}))
    assert store.written == [
        "s3://bucket/traces/acme/run-1_screens/0000.png",
        "s3://bucket/traces/acme/run-1_screens/0001.png",
        "s3://bucket/traces/acme/run-1.json",
    ]


def test_failures_are_logged_and_counted_and_never_raised(tmp_path, caplog):
    (tmp_path / "acme").write_text("a file where the tenant's folder should be")
    exporter = TraceExporter(tmp_path)
    with caplog.at_level(logging.ERROR):
        assert exporter.export(finished()) is None
    assert "run-1" in caplog.text
    assert (exporter.exported, exporter.failed) == (0, 1)
    full = TraceExporter("s3://bucket/traces", store=Recording(OSError(28, "No space left on device")))
    assert full.export(finished()) is None
    assert full.failed == 1


def test_an_interrupted_write_leaves_nothing_that_a_reader_takes(tmp_path, monkeypatch):
    from pathlib import Path

    from sluice_traces.reader import is_trace_name

    exporter = TraceExporter(tmp_path)
    exporter.export(finished(status="paused"))
    before = (tmp_path / "acme" / "run-1.json").read_bytes()
    seen = []

    def crash(self, target):
        seen.extend(files(tmp_path))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", crash)
    assert exporter.export(finished()) is None
    assert [name for name in seen if is_trace_name(name)] == ["acme/run-1.json"]
    assert any(name.startswith("acme/.") for name in seen)
    assert files(tmp_path) == ["acme/run-1.json"]
    assert (tmp_path / "acme" / "run-1.json").read_bytes() == before


def test_what_json_cannot_hold_does_not_cost_the_trace(tmp_path):
    step = TraceStep(
        step_index=0,
        intent="a page with \ud800 half a character",
        last_action=TraceAction(action_type="click", params={"x": float("nan"), "at": START, "both": (1, 2)}),
    )
    TraceExporter(tmp_path).export(finished(steps=[step]))
    (written,) = json.loads((tmp_path / "acme" / "run-1.json").read_bytes())["steps"]
    assert written["intent"] == "a page with ? half a character"
    assert written["last_action"]["params"] == {"x": None, "at": str(START), "both": [1, 2]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"started_at": START.replace(tzinfo=None)}, "started_at"),
        ({"costs": Costs(gpu=float("inf"))}, r"costs\.gpu"),
        ({"screenshots": {-1: PNG}}, "screenshots"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        finished(**fields)


def test_instants_are_written_in_utc(tmp_path):
    east = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    TraceExporter(tmp_path).export(finished(started_at=east))
    assert json.loads((tmp_path / "acme" / "run-1.json").read_bytes())["started_at"] == "2026-11-01T10:00:00.250Z"


def test_exporting_is_off_without_a_folder():
    for environment in (
        {},
        {"SLUICE_TRACE_EXPORT_DIR": " "},
        {"SLUICE_TRACE_EXPORT_DIR": "", "MANTIS_TRACE_EXPORT_DIR": "x"},
    ):
        exporter = TraceExporter.from_environment(environment)
        assert not exporter.enabled
        assert exporter.export(finished()) is None


@pytest.mark.parametrize("prefix", ["SLUICE", "MANTIS"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [("1", True), ("TRUE", True), ("Yes", True), (" on ", True), ("0", False), ("", False), ("2", False), ("y", False)],
)
def test_both_generations_of_variables_are_read(tmp_path, prefix, value, shown):
    exporter = TraceExporter.from_environment(
        {f"{prefix}_TRACE_EXPORT_DIR": str(tmp_path), f"{prefix}_TRACE_INCLUDE_SCREENSHOTS": value}
    )
    exporter.export(finished(screenshots={0: PNG}))
    assert (tmp_path / "acme" / "run-1_screens" / "0000.png").exists() is shown


def test_the_new_variables_win(tmp_path):
    exporter = TraceExporter.from_environment(
        {
            "SLUICE_TRACE_EXPORT_DIR": str(tmp_path / "new"),
            "MANTIS_TRACE_EXPORT_DIR": str(tmp_path / "old"),
            "SLUICE_TRACE_INCLUDE_SCREENSHOTS": "no",
            "MANTIS_TRACE_INCLUDE_SCREENSHOTS": "yes",
        }
    )
    exporter.export(finished(screenshots={0: PNG}))
    assert files(tmp_path) == ["new/acme/run-1.json"]


@pytest.mark.parametrize("module", ["router", "exporter", "follower", "resolver"])
def test_an_agent_does_not_pay_for_torch(module):
    program = f"import sys, sluice_runtime.{module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
