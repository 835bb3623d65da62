"""Folders that nobody would want: links in circles, pipes, names that are no text, documents made to break readers."""

import json
import os
import shutil
from pathlib import Path

import pytest

from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.jobs import LabelJob, LabelOutput
from sluice_artifacts import ArtifactError, ForbiddenError, read_manifest
from sluice_artifacts.files import FileStore
from sluice_artifacts.reporting import Reporter
from sluice_cli.main import main
from sluice_traces.convert import NO_SCREENS, ConvertConfig
from sluice_traces.pipeline import TracePipeline
from sluice_traces.reader import BadFileError
from sluice_traces.worker import run
from trace_factory import PNG, label_job, step, trace, write_trace


def build(job: LabelJob) -> LabelOutput:
    return run(job, Reporter(job))


@pytest.fixture
def source(tmp_path) -> Path:
    write_trace(tmp_path / "traces", trace("run-1"))
    write_trace(tmp_path / "traces", trace("run-2"))
    return tmp_path / "traces"


def label(source: Path, output: Path, *arguments: str) -> int:
    return main(["trace", "label", str(source), "-o", str(output), *arguments])


def put(source: Path, name: bytes, content: bytes) -> None:
    (source / "acme" / os.fsdecode(name)).write_bytes(content)


def link_in_a_circle(source: Path) -> None:
    (source / "acme" / "loop").symlink_to("..")


def link_to_itself(source: Path) -> None:
    (source / "acme" / "self").symlink_to("self")


@pytest.mark.parametrize("trap", [link_in_a_circle, link_to_itself])
def test_links_in_a_circle_are_followed_once(source, tmp_path, capsys, trap):
    trap(source)
    assert label(source, tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["labelled"] == 2


def pipe(source: Path) -> None:
    os.mkfifo(source / "acme" / "trap.json")


def device(source: Path) -> None:
    (source / "acme" / "trap.json").symlink_to("/dev/zero")


def dangling(source: Path) -> None:
    (source / "acme" / "trap.json").symlink_to("nowhere")


def huge(source: Path) -> None:
    with (source / "acme" / "trap.json").open("wb") as out:
        out.truncate(2 << 30)


@pytest.mark.parametrize(
    ("trap", "reason"), [(pipe, "unreadable"), (device, "unreadable"), (dangling, "vanished"), (huge, "too_large")]
)
@pytest.mark.parametrize("command", ["label", "convert"])
def test_what_is_no_regular_file_is_named_and_never_read(source, tmp_path, capsys, trap, reason, command):
    if command == "convert":
        assert label(source, tmp_path / "labelled") == 0
        source = tmp_path / "labelled"
    trap(source)
    capsys.readouterr()
    if command == "label":
        assert label(source, tmp_path / "out", "--json") == 0
    else:
        output = str(tmp_path / "rows.jsonl")
        arguments = ["--traces", str(source), "--output", output, "--no-require-screenshot", "--json"]
        assert main(["trace", "convert", *arguments]) == 0
    (bad,) = json.loads(capsys.readouterr().out)["bad_files"]
    assert (bad["path"], bad["reason"]) == ("acme/trap.json", reason)


def test_names_that_are_no_text_are_labelled_and_printed_without_harm(source, tmp_path, capsys):
    put(source, b"b\xff.json", json.dumps(trace("odd")).encode())
    put(source, b"bad\xfe\x1b[31m.json", b"{}")
    put(source, b"n" * 250 + b".json", json.dumps(trace("long")).encode())
    assert label(source, tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert r"skipped acme/bad\xfe\x1b[31m.json" in said and "\x1b" not in said
    assert (tmp_path / "out" / "acme" / ("n" * 250 + ".json")).exists()
    odd = tmp_path / "out" / "acme" / os.fsdecode(b"b\xff.json")
    assert json.loads(odd.read_text())["source_path"].endswith(r"b\xff.json")
    arguments = ["--traces", str(tmp_path / "out"), "--output", str(tmp_path / "r.jsonl"), "--no-require-screenshot"]
    assert main(["trace", "convert", *arguments]) == 0


def test_a_file_whose_name_is_no_text_is_counted_by_a_build(source, tmp_path):
    put(source, b"b\xff.json", json.dumps(trace("odd")).encode())
    output = build(label_job(source, tmp_path))
    assert (output.traces, output.bad_reasons) == (2, {"bad_utf8": 1})
    assert output.bad_examples == ["acme/b\\xff.json: bad_utf8: its name is not UTF-8: rename it"]


def test_a_labeller_never_takes_the_place_of_a_trace(source, tmp_path, capsys):
    before = (source / "acme" / "run-1.json").read_bytes()
    assert label(source / "acme" / "run-1.json", source / "acme") == 2
    assert label(source / "acme" / "run-1.json", tmp_path / "out") == 0
    shutil.copy(source / "acme" / "run-2.json", tmp_path / "out" / "run-2.json")
    os.utime(tmp_path / "out" / "run-2.json", (1, 1))
    assert label(source / "acme" / "run-2.json", tmp_path / "out") == 2
    assert "is no labelled trace" in capsys.readouterr().err
    rows = ["--output", str(source / "acme" / "run-1.json"), "--no-require-screenshot"]
    assert main(["trace", "convert", "--traces", str(source), *rows]) == 2
    assert (source / "acme" / "run-1.json").read_bytes() == before


def test_a_correction_survives_labelling_again(source, tmp_path, capsys):
    assert label(source, tmp_path / "out") == 0
    labelled = tmp_path / "out" / "acme" / "run-1.json"
    arguments = ["--step", "1", "--action", "click(7, 8)", "--by", "reviewer-7"]
    assert main(["trace", "correct", str(labelled), *arguments]) == 0
    assert main(["trace", "review", str(labelled), "--set", "approved"]) == 0
    for force in ([], ["--force"]):
        assert label(source, tmp_path / "out", *force) == 0
        document = json.loads(labelled.read_text())
        assert document["review_status"] == "approved"
        assert document["steps"][1]["human_edit"]["last_action"]["params"] == {"x": 7, "y": 8}
        assert "human_edit" not in document["steps"][0]
    write_trace(source, trace("run-1", steps=[step(0), step(1, intent="another")]))
    capsys.readouterr()
    assert label(source, tmp_path / "out", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["withdrawn_reviews"] == 1
    assert "pending again" in said.err


def test_a_correction_leaves_everything_else_as_it_was(source):
    path = source / "acme" / "run-1.json"
    text = path.read_text()[:-1] + ', "precise": 0.10000000000000000001, "large": 1e999}'
    path.write_text(text)
    arguments = ["--step", "0", "--action", "click(7, 8)", "--by", "reviewer-7"]
    assert main(["trace", "correct", str(path), *arguments]) == 2
    path.write_text(text.replace(', "large": 1e999', ""))
    assert main(["trace", "correct", str(path), *arguments]) == 0
    assert "0.10000000000000000001" in path.read_text()


def hostile(**fields) -> dict:
    document = trace("run-1", **fields)
    for each in document["steps"]:
        each.update(label="positive", label_reason="gate_verify_pass")
    return document


def test_nothing_in_a_trace_steers_the_terminal(tmp_path, capsys):
    document = hostile(label_summary={"positive": "\x1b[2J"})
    document["steps"][0].update(label="\x1b]0;x\x07", step_index="\x9b31m", label_reason="\x1b[1m")
    (tmp_path / "t.json").write_text(json.dumps(document))
    assert main(["trace", "review", str(tmp_path / "t.json")]) == 0
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\x9b") & set(shown)


@pytest.mark.parametrize(
    ("fields", "code"), [({"label_summary": [1]}, 0), ({"label_summary": {"positive": 2}, "steps": "x"}, 1)]
)
def test_a_broken_labelled_trace_is_shown_or_refused(tmp_path, capsys, fields, code):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**hostile(), **fields}))
    assert main(["trace", "review", str(path)]) == code
    if code:
        assert main(["trace", "review", str(path), "--set", "approved"]) == code
        assert "approved" not in path.read_text()


def test_numbers_beyond_all_bounds_are_refused_and_not_followed(tmp_path, capsys):
    (tmp_path / "t.json").write_text(json.dumps(trace()).replace("60.0", "1e999"))
    assert main(["trace", "review", str(tmp_path / "t.json")]) == 1
    assert "invalid_json" in capsys.readouterr().err


@pytest.mark.parametrize("index", [2**31, 2**64, -(2**31) - 1])
def test_a_step_that_no_column_holds_is_a_bad_file_and_not_the_end_of_a_build(source, tmp_path, index):
    write_trace(source, trace("run-3", steps=[step(0), {**step(1), "step_index": index}]))
    output = build(label_job(source, tmp_path))
    assert (output.traces, output.bad_reasons) == (2, {"not_a_trace": 1})


def test_a_bad_field_before_deep_nesting_is_a_bad_file():
    raw = json.dumps(trace(run_id=7))[:-1] + ', "deep": ' + "[" * 100_000 + "]" * 100_000 + "}"
    with pytest.raises(BadFileError, match="nested too deeply"):
        TracePipeline(ConvertConfig(require_screenshot=False)).process(raw.encode(), NO_SCREENS)


class TestConvert:
    @pytest.fixture
    def pictured(self, tmp_path) -> Path:
        write_trace(tmp_path / "traces", trace("run-1", steps=[step(n) for n in range(4)]), screens=True)
        assert label(tmp_path / "traces", tmp_path / "labelled") == 0
        return tmp_path

    def rows(self, folder: Path, capsys, *arguments: str, code: int = 0) -> tuple[list[dict], dict]:
        capsys.readouterr()
        output = folder / "rows.jsonl"
        options = ["--screenshots-root", str(folder / "traces"), "--json", *arguments]
        command = ["trace", "convert", "--traces", str(folder / "labelled"), "--output", str(output), *options]
        assert main(command) == code
        return [json.loads(line) for line in output.read_text().splitlines()], json.loads(capsys.readouterr().out)

    def test_a_picture_that_does_not_decode_counts_as_missing(self, pictured, capsys):
        screens = pictured / "traces" / "acme" / "run-1_screens"
        (screens / "0000.png").write_bytes(PNG[:-20])
        (screens / "0001.png").write_bytes(b"GIF89a")
        (screens / "0009.png").symlink_to("nowhere")
        rows, summary = self.rows(pictured, capsys)
        assert [row["image"] for row in rows] == [f"acme/run-1_screens/000{n}.png" for n in (2, 3)]
        assert summary["dropped"] == {"no_screenshot": 2}
        assert summary["bad_screens"] == {"corrupt": 1, "not_png": 1}

    def test_a_tenant_that_leads_out_of_the_root_finds_no_pictures(self, pictured, capsys):
        shutil.move(pictured / "traces" / "acme", pictured / "elsewhere")
        path = pictured / "labelled" / "acme" / "run-1.json"
        path.write_text(path.read_text().replace('"tenant_id":"acme"', '"tenant_id":"../elsewhere"'))
        rows, summary = self.rows(pictured, capsys, code=2)
        assert rows == [] and summary["dropped"] == {"no_screenshot": 4}

    def test_a_run_whose_name_is_private_is_left_out_and_never_named(self, pictured, capsys):
        write_trace(pictured / "traces", trace("for joe@example.com"), screens=True)
        (pictured / "labelled" / "acme" / "of kim@example.com.json").write_text("{")
        assert label(pictured / "traces", pictured / "labelled") == 0
        rows, summary = self.rows(pictured, capsys)
        assert {row["metadata"]["run_id"] for row in rows} == {"run-1"}
        assert summary["skipped"] == {"private_identity": 1}
        assert "example.com" not in json.dumps([rows, summary])


@pytest.mark.parametrize("line", [b'{"prompt": "\xff"}', b'{"prompt": ' + b"[" * 100_000, b'{"prompt": [1]}', b"{}"])
def test_a_line_that_is_no_row_is_named_by_file_and_line(tmp_path, capsys, line):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b'\n{"prompt": "a", "response": "b"}\n' + line + b"\n")
    assert main(["trace", "dedup", "--input", str(rows), "--output", str(tmp_path / "o.jsonl")]) == 2
    assert f"{rows}: line 3 is no row" in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize("suite", [b"[]", b'{"tasks": 7}', b"\xff", b'{"tasks":' + b"[" * 100_000])
def test_a_suite_that_keeps_nothing_out_is_named(tmp_path, capsys, suite):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "a", "response": "b"}\n')
    (tmp_path / "suite.json").write_bytes(suite)
    files = ["--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "o.jsonl")]
    assert main(["trace", "dedup", *files, "--against", str(tmp_path / "suite.json")]) == 2
    assert f"--against {tmp_path / 'suite.json'}" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "reason"), [(ForbiddenError, "unreadable"), (ArtifactError, "unreadable")])
def test_a_picture_that_the_storage_refuses_costs_its_step_and_not_the_build(tmp_path, monkeypatch, error, reason):
    source = tmp_path / "traces"
    for number in range(3):
        write_trace(source, trace(f"run-{number}"), screens=True)
    read, refused = FileStore.read, "run-1_screens/0001.png"

    def refuse(self, uri):
        if uri.endswith(refused):
            raise error(uri, "403")
        return read(self, uri)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "read", refuse)
        first = build(label_job(source, tmp_path, require_screenshot=True, holdout=0.0))
    assert first.rows == 5
    assert manifest(first).screens.bad == {reason: 1}
    again = build(label_job(source, tmp_path, require_screenshot=True, holdout=0.0, parent=first.dataset.digest))
    assert (again.rows, manifest(again).screens.bad) == (6, {})


def manifest(output: LabelOutput) -> DatasetManifest:
    return read_manifest(output.dataset, DatasetManifest)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("p\u043esitive", "gate_verify_pass"),
        ("Positive", "gate_verify_pass"),
        ("positive", "escalation"),
        ("positive", "failed_step"),
        ("positive", "success_no_delta"),
        (None, None),
    ],
)
def test_a_label_that_the_ladder_does_not_give_is_never_taught(tmp_path, capsys, label, reason):
    steps = [step(0, label=label, label_reason=reason), step(1, label="positive", label_reason="gate_verify_pass")]
    write_trace(tmp_path / "labelled", trace("forged", steps=steps))
    rows = tmp_path / "rows.jsonl"
    arguments = ["--traces", str(tmp_path / "labelled"), "--output", str(rows), "--no-require-screenshot"]
    assert main(["trace", "convert", *arguments]) == 2
    assert "forged.json: not_labelled: step 0" in capsys.readouterr().err
    assert rows.read_bytes() == b""


@pytest.mark.parametrize("name", ["../../evil", "a/b", "n\0ul", "x" * 300])
def test_a_bucket_may_have_any_name_and_broken_lines_are_counted(source, tmp_path, name):
    write_trace(source, trace("run-3", steps=[step(0, intent="another"), step(1, intent="and another")]))
    (tmp_path / "corpus").mkdir()
    lines = [
        b'{"prompt": "a", "response": "b c"}',
        b"\xff\xfe",
        b'{"prompt": "\xff", "response": "b"}',
        b'{"p": ' + b"[" * 99_999,
    ]
    (tmp_path / "corpus" / "x.jsonl").write_bytes(b"\n".join(lines))
    buckets = [
        {"name": "traces", "weight": 1.0},
        {"name": name, "weight": 1.0, "source_uri": (tmp_path / "corpus").as_uri() + "/"},
    ]
    rule = {"rows": 8, "buckets": buckets}
    output = build(label_job(source, tmp_path / "out", mixture=rule, holdout=0.0, max_bad_fraction=0.9))
    assert output.buckets == {"traces": 4, name: 4}
    assert manifest(output).buckets[name].bad_rows == {"not_a_candidate": 3}
