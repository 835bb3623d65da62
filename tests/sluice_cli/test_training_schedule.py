"""The example schedule on a tiny mixture of experts: phases, the evaluator on live weights, stop rules, resume."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from code_model.make_base import make_base
from sluice_api.contracts.evaluation import EvalReport
from sluice_api.contracts.jobs import ProbePlan, ProbeResult, StopReason, TrainOutput
from sluice_api.contracts.models import AdapterManifest
from sluice_api.training import train_settings
from sluice_api.v1alpha1 import FineTuneRun
from sluice_artifacts import read_document, read_manifest
from sluice_artifacts.reporting import run_worker
from sluice_cli.probing import probe
from sluice_evaluator.builtin import load
from sluice_trainer import worker
from sluice_trainer.live import Answer, Answers, Prompt
from training_jobs import Workplace

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
EXAMPLE = Path(__file__).parents[2] / "examples" / "code_model"
SCALE = 125
"""The example's steps in the test are its own divided by this: phases to 2 and 8, probes every 2, extension to 24."""


def scaled() -> dict[str, Any]:
    (document,) = yaml.safe_load_all((EXAMPLE / "finetunerun.yaml").read_text())
    settings = train_settings(FineTuneRun.model_validate(document).spec)
    for phase in settings["phases"]:
        phase["until"] = phase["until"] // SCALE if phase["until"] else None
    probes = settings["probes"]
    for name in ("every", "patience_steps", "extend_to"):
        probes[name] //= SCALE
    probes["gates"][0]["at_step"] //= SCALE
    settings["max_steps"] //= SCALE
    return settings | {"checkpoint_every": 1, "checkpoint_keep": 100}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("schedule")
    work = Workplace(folder)
    work.base = folder / "moe"
    tasks = [task.model_dump(mode="json") | {"max_tokens": 24} for task in load("builtin:smoke-8").tasks]
    (folder / "suite.json").write_text(json.dumps({"tasks": tasks}))
    make_base(work.base)
    return work


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))


def run(place: Workplace, name: str, attempt: int = 1, prober: Any = probe, **options: Any) -> TrainOutput:
    settings = scaled() | options
    if settings["probes"]:
        settings["probes"] |= {"suite_uri": f"file://{place.folder}/suite.json"}
    job = place.job(name, attempt=attempt, **settings)
    assert run_worker(job, partial(worker.run_bare, prober=prober)) == 0
    return place.output(job)


def test_the_seeds_schedule_stalls_on_random_weights_and_resumes_to_the_same(place: Workplace) -> None:
    output = run(place, "stalls")
    assert (output.stop_reason, output.steps) == (StopReason.PASS_RATE_STALLS, 6)
    assert [each.step for each in output.probes] == [0, 2, 4, 6]
    for each in output.probes:
        assert (each.tasks, each.judged, each.passed, each.pass_rate) == (8, 8, 0, 0.0)
        assert each.report is not None
        report = read_document(each.report, EvalReport)
        assert (report.task_count, report.pass_count, report.name) == (8, 0, f"step-{each.step}")
    checkpoints = Path(place.job("stalls").checkpoint_uri.removeprefix("file://"))
    for folder in checkpoints.iterdir():
        if int(folder.name[5:13]) > 3:
            (folder / "complete.json").unlink()
    again = run(place, "stalls", attempt=2)
    assert again.resumed_from_step == 3
    assert (again.adapter, again.stop_reason) == (output.adapter, output.stop_reason)
    assert [each.step for each in again.probes] == [0, 2, 4, 6]


def test_an_adapter_of_experts_routers_and_norms_loads_in_peft(place: Workplace) -> None:
    output = run(place, "loads", probes=None, max_steps=4, learning_rate=1e-2)
    manifest = read_manifest(output.adapter, AdapterManifest)
    assert {"q_proj", "mlp.gate", "input_layernorm", "mlp.experts.gate_up_proj"} <= set(manifest.target_modules)
    base = AutoModelForCausalLM.from_pretrained(place.base)
    ids = AutoTokenizer.from_pretrained(place.base)("def add(a, b):", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        model = PeftModel.from_pretrained(base, output.adapter.uri.removeprefix("file://")).eval()
        assert (model(input_ids=ids).logits - plain).abs().max() > 1e-3


def shown(step: int, pass_rate: float, syntax_rate: float) -> ProbeResult:
    passed = round(100 * pass_rate)
    return ProbeResult(step=step, tasks=100, judged=100, passed=passed, pass_rate=pass_rate, syntax_rate=syntax_rate)


def gates_met(plan: ProbePlan, answers: Answers, step: int, output_uri: str, /) -> ProbeResult:
    """What a good model would show."""
    return shown(step, 0.4 + 0.01 * step, 0.95)


def gates_missed(plan: ProbePlan, answers: Answers, step: int, output_uri: str, /) -> ProbeResult:
    """Better every time, and short of the gate."""
    return shown(step, 0.1 + 0.01 * step, 0.95)


def syntax_lost(plan: ProbePlan, answers: Answers, step: int, output_uri: str, /) -> ProbeResult:
    """Better answers in worse form."""
    return shown(step, 0.4 + 0.01 * step, 0.9 - 0.01 * step)


@pytest.mark.parametrize(
    ("prober", "reason", "steps"),
    [
        (gates_met, StopReason.COMPLETED, 24),
        (gates_missed, StopReason.GATES_NOT_MET, 8),
        (syntax_lost, StopReason.SYNTAX_DROPS_TWICE, 4),
    ],
)
def test_each_rule_ends_a_run_for_its_reason(place: Workplace, prober: Any, reason: StopReason, steps: int) -> None:
    output = run(place, reason.value, prober=prober)
    assert (output.stop_reason, output.steps) == (reason, steps)


def test_form_and_correctness_are_judged_apart(tmp_path: Path) -> None:
    """Python that parses, JSON, a diff, a sentence that ends: right or wrong, these have a form."""
    good = {
        "python_cases": "```python\ndef wrong(x):\n    return x\n```",
        "json_calls": '[{"name": "nothing", "arguments": {}}]',
        "diff_applies_fuzzy": "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
    }
    kinds = [task.criteria[0].type for task in load("builtin:smoke-8").tasks]
    assert set(good) < set(kinds)

    def answers(form: bool) -> Answers:
        def answer(prompts: Sequence[Prompt], /) -> list[Answer]:
            assert len(prompts) == len(kinds)
            return [Answer(text=good.get(kind, "hello") if form else "def ((", stopped=form) for kind in kinds]

        return answer

    plan = ProbePlan(suite_uri="builtin:smoke-8")
    formed = probe(plan, answers(True), 0, f"file://{tmp_path}")
    broken = probe(plan, answers(False), 1, f"file://{tmp_path}")
    assert formed.syntax_rate == 1.0
    assert formed.pass_rate is not None and formed.pass_rate < 1.0
    assert broken.syntax_rate == 0.0
