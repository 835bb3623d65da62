"""`sluice train`: the seed's flags under each name, results, exit codes."""

import argparse
import json
from pathlib import Path

import pytest
from peft import PeftConfig

from sluice_api.contracts.jobs import Progress, TrainJob
from sluice_artifacts.files import file_path
from sluice_trainer import commands, progress_bar, worker
from tiny_models import save_base, sft_row

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(sft_row(number)) + "\n" for number in range(12)))
    return path


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    return parser.parse_args(["train", *argv])


def job(*argv: str) -> TrainJob:
    built = commands.build_job(parse(*argv))
    assert isinstance(built, TrainJob)
    return built


def main(*argv: str) -> int:
    arguments = parse(*argv)
    return int(arguments.handler(arguments))


def test_both_sets_of_the_seeds_flags_mean_the_same(data: Path, base: Path, tmp_path: Path) -> None:
    first = job(
        "--train-jsonl", str(data), "--output-dir", str(tmp_path / "a"), "--base-model", str(base),
        "--lora-r", "32", "--epochs", "1",
    )  # fmt: skip
    second = job(
        "--data", str(data), "--output", str(tmp_path / "a"), "--model", str(base), "--lora-rank", "32",
        "--lora-alpha", "64", "--epochs", "1", "--batch-size", "1", "--gradient-accumulation", "8",
        "--lr", "1e-4", "--max-seq-length", "2048",
    )  # fmt: skip
    attempts = file_path(first.output_uri).parent.as_uri()
    assert second == first.model_copy(update={"attempt": 2, "output_uri": f"{attempts}/2/"})
    assert (first.lora_rank, first.lora_alpha, first.epochs, first.tokens_per_step) == (32, 64, 1.0, 8 * 2048)


def test_without_flags_the_seeds_defaults_hold(data: Path, base: Path, tmp_path: Path) -> None:
    found = job("--data", str(data), "--output", str(tmp_path / "a"), "--model", "hf://owner/name", "--revision", "r1")
    assert (found.lora_rank, found.lora_alpha, found.epochs, found.learning_rate) == (16, 32, 5.0, 1e-4)
    assert (found.max_length, found.tokens_per_step, found.target_modules) == (2048, 16384, "all-linear")
    assert (found.base_model.uri, found.base_model.revision) == ("hf://owner/name", "r1")


def test_it_trains_and_says_so_as_json(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(data), "--output", str(tmp_path / "out"), "--model", str(base), "--no-ray", "--json"]
    argv += ["--epochs", "1", "--tokens-per-step", "500", "--max-seq-length", "300"]
    assert main(*argv) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["steps"] > 2
    assert PeftConfig.from_pretrained(str(tmp_path / "out" / "adapter")).r == 16
    assert main(*argv) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["resumed_from_step"] == first["steps"]
    assert again["adapter"] == first["adapter"]


def test_a_person_gets_a_summary(data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--data", str(data), "--output", str(tmp_path / "out"), "--model", str(base), "--no-ray"]
    assert main(*argv, "--max-steps", "2", "--max-seq-length", "300") == 0
    captured = capsys.readouterr()
    assert "trained 2 steps, final loss " in captured.out
    assert "adapter sha256:" in captured.out
    assert captured.err.splitlines()[-1].startswith("publishing  loss ")


@pytest.mark.parametrize("kind", ["missing data", "negative row", "missing base", "bad setting"])
def test_input_that_cannot_be_used_exits_2_with_the_reason(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    argv = {"--data": str(data), "--output": str(tmp_path / "out"), "--model": str(base)}
    expected = kind
    if kind == "missing data":
        argv["--data"] = expected = str(tmp_path / "absent.jsonl")
    elif kind == "negative row":
        data.write_text(json.dumps(sft_row(0, label="negative")) + "\n")
        expected = "train.jsonl:1: metadata.label is 'negative'"
    elif kind == "missing base":
        argv["--model"] = str(tmp_path / "nowhere")
        expected = "nowhere"
    else:
        argv["--lora-rank"] = "0"
        expected = "lora_rank is 0"
    assert main(*(part for pair in argv.items() for part in pair), "--no-ray") == 2
    assert expected in capsys.readouterr().err


def test_the_bar_shows_loss_speed_and_epoch() -> None:
    metrics = {"loss": 0.41239, "tokens_per_second": 11800.4, "epoch": 0.6}
    progress = Progress(attempt=1, updated_at="", metrics=metrics)
    assert progress_bar.describe(progress) == "loss 0.4124  11,800 tokens/s  epoch 0.60"
    assert progress_bar.describe(Progress(attempt=1, updated_at="")) == ""


MANIFEST = """
kind: TraceDataset
---
apiVersion: sluice.dev/v1alpha1
kind: FineTuneRun
metadata: {name: a}
spec:
  datasetRef: {name: d}
  baseModel: {uri: "file:///base/"}
  lora: {rank: 8, alpha: 16, targetModules: "q_proj, v_proj"}
  optimizer: {learningRate: 1.0e-3, maxSteps: 1000}
  sequence: {activationCheckpointing: "on"}
  phases: [{until: 250, train: [attention], learningRate: 2.0e-5}, {freeze: ["layers:0-3"]}]
  probes: {suite: smoke-8, stopRules: [passRateStalls], gates: [{atStep: 1000, passRate: 0.4}], extendTo: 3000}
  output: file:///out/
"""


def test_a_manifest_gives_settings_phases_and_probes(data: Path, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MANIFEST)
    flags = ["--data", str(data), "--output", str(tmp_path / "m"), "--model", str(base), "--manifest", str(path)]
    built = job(*flags)
    assert (built.lora_rank, built.target_modules, built.learning_rate) == (8, ["q_proj", "v_proj"], 1e-3)
    assert (built.max_steps, built.activation_checkpointing) == (1000, "on")
    assert [(phase.until, phase.train, phase.freeze) for phase in built.phases] == [
        (250, ["attention"], []),
        (None, [], ["layers:0-3"]),
    ]
    assert built.probes is not None
    assert (built.probes.suite_uri, built.probes.extend_to) == ("builtin:smoke-8", 3000)
    assert built.base_model.uri == base.resolve().as_uri(), "the base is the flag's"


def test_a_manifest_says_how_strongly_pairs_pull(data: Path, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    found = {}
    for dpo in ("", "  dpo: {beta: 0.25}\n"):
        path.write_text(MANIFEST + "  method: dpo\n" + dpo)
        flags = ["--data", str(data), "--output", str(tmp_path / "m"), "--model", str(base), "--manifest", str(path)]
        found[dpo] = job(*flags).dpo_beta
    assert list(found.values()) == [0.1, 0.25]


def test_target_modules_may_have_blanks_or_commas_between_them(data: Path, base: Path, tmp_path: Path) -> None:
    where = ["--data", str(data), "--output", str(tmp_path / "m"), "--model", str(base)]
    for targets in (["q_proj,v_proj"], ["q_proj", "v_proj"], ["q_proj,", "v_proj"]):
        assert job(*where, "--target-modules", *targets).target_modules == ["q_proj", "v_proj"]


def test_an_error_of_a_row_names_the_file_that_was_given(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data.read_text().splitlines()
    rows[2] = rows[2].replace('"positive"', '"negative"')
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(rows))
    where = ["--data", str(path), "--output", str(tmp_path / "m"), "--model", str(base), "--no-ray"]
    assert main(*where) == 2
    said = capsys.readouterr().err
    assert "train.jsonl:3" in said
    assert f"(train.jsonl is {path})" in said


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        (MANIFEST, ["--lr", "1e-3"], "--lr: with --manifest these come from"),
        ("kind: EvalRun\n", [], "there is no FineTuneRun in it"),
        ("kind: [\n", [], "no YAML"),
        (MANIFEST.replace("rank: 8", "rank: 0"), [], "spec.lora.rank: "),
        (MANIFEST.replace("extendTo: 3000", "extendTo: 300"), [], "spec.probes.extendTo 300 needs a smaller"),
        (MANIFEST + "  parentRef: {name: a}\n", [], "spec.parentRef: a run of this command starts from the base"),
        (MANIFEST + "  dpo: {beta: 0.2}\n", [], "spec.dpo is only for spec.method dpo, which is sft"),
        (MANIFEST + "  minWorkers: 2\n", [], "spec.minWorkers is 2, spec.workers 1"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, flags: list[str], words: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    where = ["--data", str(data), "--output", str(tmp_path / "m"), "--model", str(base), "--manifest", str(path)]
    assert main(*where, *flags) == 2
    assert words in capsys.readouterr().err


def test_probes_without_anything_to_run_them_are_refused(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rule that never fires would look like a rule that holds."""
    path = tmp_path / "run.yaml"
    path.write_text(MANIFEST)
    where = ["--data", str(data), "--output", str(tmp_path / "m"), "--model", str(base), "--manifest", str(path)]
    assert main(*where, "--no-ray") == 2
    assert "probes: nothing here runs suites" in capsys.readouterr().err
