"""Stop rules and gates as pure functions, and by runs of the loop that end for each of them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from documents import row_loss, tokenize_rows
from sluice_api.chat import end_tokens
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import ProbeGate, ProbePlan, ProbeResult, StopReason, StopRule
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.live import LiveModel, Prompt
from sluice_trainer.loop import LoopConfig, StepRecord, Trained, train
from sluice_trainer.model import LoraSettings, add_adapter, trained_parameters
from sluice_trainer.plan import PlanConfig, build_plan
from sluice_trainer.probes import gate_met, is_due, pass_rate_stalled, syntax_dropped_twice, verdict
from sluice_trainer.recipes import SftRecipe, sft_sizes
from sluice_trainer.schedule import Schedule
from sluice_trainer.snapshot import PendingSnapshot, Snapshot, Take
from tiny_models import sft_row, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
DOCUMENTS = tokenize_rows([SftRow.model_validate(sft_row(number)) for number in range(6)], tiny_tokenizer())
BOTH = [StopRule.SYNTAX_DROPS_TWICE, StopRule.PASS_RATE_STALLS]


def probes(passes: Sequence[float | None], syntax: Sequence[float | None], every: int = 250) -> list[ProbeResult]:
    return [
        ProbeResult(step=every * number, tasks=8, judged=8, passed=0, pass_rate=rate, syntax_rate=form)
        for number, (rate, form) in enumerate(zip(passes, syntax, strict=True))
    ]


def plan(**options: Any) -> ProbePlan:
    return ProbePlan(**({"suite_uri": "builtin:smoke-8", "stop_rules": BOTH} | options))


@pytest.mark.parametrize(
    ("rates", "dropped"),
    [
        ([0.875, 0.75, 0.625], True),
        ([0.625, 0.75, 0.875], False),
        ([0.875, 0.75, 0.75], False),
        ([0.875, 0.875, 0.75], False),
        ([0.875, 0.75], False),
        ([0.9, 0.875, None, 0.75], True),
        ([], False),
    ],
)
def test_syntax_that_falls_at_two_probes_in_a_row(rates: list[float | None], dropped: bool) -> None:
    """The seed's checkpoints had 62.5, 75 and 87.5 % syntax: in the other order they would stop a run."""
    assert syntax_dropped_twice(probes([0.0] * len(rates), rates), plan()) is dropped


@pytest.mark.parametrize(
    ("rates", "stalled"),
    [
        ([0.0, 0.0, 0.0], False),
        ([0.0, 0.0, 0.0, 0.0], True),
        ([0.0, 0.125, 0.125, 0.0], False),
        ([0.0, 0.125, 0.125, 0.0, 0.125], True),
        ([0.5, 0.0, 0.25, 0.375], True),
        ([0.0, 0.0, 0.0, 0.125], False),
        ([None, None, None, None], False),
    ],
)
def test_a_pass_rate_without_a_new_best_for_750_steps(rates: list[float | None], stalled: bool) -> None:
    """The baseline is step 0; a best that is equalled is not exceeded."""
    assert pass_rate_stalled(probes(rates, [0.9] * len(rates)), plan()) is stalled


@pytest.mark.parametrize(
    ("rate", "form", "met"),
    [(0.40, 0.95, True), (0.39, 0.95, False), (0.40, 0.94, False), (None, 0.95, False), (0.4, None, False)],
)
def test_a_gate_needs_every_rate_and_unknown_is_not_met(rate: float | None, form: float | None, met: bool) -> None:
    shown = probes([0, 0, 0, 0, rate], [1, 1, 1, 1, form])
    gate = ProbeGate(at_step=1000, pass_rate=0.40, syntax_rate=0.95)
    assert gate_met(gate, shown) is met
    assert not gate_met(ProbeGate(at_step=999, pass_rate=0.0), shown), "no probe there"


def test_a_run_is_extended_only_past_its_gates() -> None:
    asked = plan(stop_rules=[], gates=[ProbeGate(at_step=1000, pass_rate=0.4)], extend_to=3000)
    good, bad = probes([0, 0, 0, 0, 0.4], [1] * 5), probes([0, 0, 0, 0, 0.3], [1] * 5)
    assert verdict(good, asked, step=1000, base_steps=1000) is None
    assert verdict(bad, asked, step=1000, base_steps=1000) == StopReason.GATES_NOT_MET
    assert verdict(bad, asked, step=750, base_steps=1000) is None
    assert verdict([], asked, step=1000, base_steps=1000) == StopReason.GATES_NOT_MET


def test_probes_are_due_at_their_interval_at_gates_and_before_the_first_step() -> None:
    asked = plan(every=3, gates=[ProbeGate(at_step=5)], extend_to=9)
    shown: list[ProbeResult] = []
    due = []
    for step in range(10):
        if is_due(asked, shown, step):
            due.append(step)
            shown.append(ProbeResult(step=step, tasks=1, judged=1, passed=1))
        assert not is_due(asked, shown, step), "once"
    assert due == [0, 3, 5, 6, 9]


class Scripted:
    """Hooks whose probes show what a script says; asks to stop in a step, and notes what came after what."""

    def __init__(self, passes: Sequence[float], syntax: Sequence[float], stop_in: int | None = None) -> None:
        self.stop_in = stop_in
        self.order: list[str] = []
        self.script = dict(enumerate(zip(passes, syntax, strict=True)))
        self.probed: list[int] = []
        self.records: list[StepRecord] = []
        self.pending: dict[int, PendingSnapshot] = {}

    def step_done(self, record: StepRecord) -> None:
        self.records.append(record)

    def stop_requested(self) -> bool:
        return len(self.records) + 1 == self.stop_in

    def checkpoint(self, step: int, take: Take) -> None:
        self.order.append(f"saved {step}")
        self.pending[step] = take()

    def probe(self, step: int) -> ProbeResult:
        self.order.append(f"probed {step}")
        self.probed.append(step)
        rate, form = self.script[step]
        return ProbeResult(step=step, tasks=8, judged=8, passed=round(8 * rate), pass_rate=rate, syntax_rate=form)


def make_recipe() -> SftRecipe:
    base = tiny_model(tiny_tokenizer()).requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    model = add_adapter(base, LoraSettings(rank=2, alpha=4), seed=5)
    return SftRecipe(model, DOCUMENTS, trained_parameters(model), CPU)


def run(
    hooks: Scripted, asked: ProbePlan, steps: int, base: int | None = None, resume: Snapshot | None = None
) -> Trained:
    sizes = sft_sizes(DOCUMENTS)
    data = build_plan(sizes, PlanConfig(seed=5, max_length=300, tokens_per_step=300, max_steps=steps))
    schedule = Schedule(peak=1e-3, steps=steps)
    config = LoopConfig(schedule=schedule, checkpoint_every=100, probes=asked, base_steps=base)
    return train(data, hooks, recipe=make_recipe(), config=config, resume=resume)


def test_a_run_ends_when_syntax_drops_twice() -> None:
    hooks = Scripted([0, 0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.85, 0.8, 0.7])
    found = run(hooks, plan(every=1), steps=6)
    assert (found.stop_reason, found.step, found.finished) == (StopReason.SYNTAX_DROPS_TWICE, 4, True)
    assert hooks.probed == [0, 1, 2, 3, 4]
    assert list(hooks.pending)[-1] == 4, "what it ends on is saved"
    assert [probe.syntax_rate for probe in found.probes] == [0.9, 0.8, 0.85, 0.8, 0.7]


def test_a_run_ends_when_the_pass_rate_stalls() -> None:
    hooks = Scripted([0.1, 0.2, 0.2, 0.1, 0.2], [0.9] * 5)
    found = run(hooks, plan(every=1, patience_steps=3), steps=6)
    assert (found.stop_reason, found.step) == (StopReason.PASS_RATE_STALLS, 4)


@pytest.mark.parametrize(("rate", "reason", "steps"), [(0.5, "Completed", 5), (0.3, "GatesNotMet", 3)])
def test_a_run_is_extended_or_not(rate: float, reason: str, steps: int) -> None:
    hooks = Scripted([rate] * 6, [0.9] * 6)
    asked = plan(every=2, stop_rules=[], gates=[ProbeGate(at_step=3, pass_rate=0.4)], extend_to=5)
    found = run(hooks, asked, steps=5, base=3)
    assert (found.stop_reason, found.step) == (reason, steps)
    assert hooks.probed == ([0, 2, 3, 4] if steps == 5 else [0, 2, 3])
    assert [record.of for record in hooks.records] == [3, 3, 3, 5, 5][:steps]


def test_a_resumed_run_remembers_what_its_probes_showed() -> None:
    hooks = Scripted([0.1, 0.2, 0.2, 0.1, 0.2], [0.9] * 5)
    whole = run(hooks, plan(every=1, patience_steps=3), steps=6)
    again = Scripted([0.1, 0.2, 0.2, 0.1, 0.2], [0.9] * 5)
    found = run(again, plan(every=1, patience_steps=3), steps=6, resume=hooks.pending[4].result())
    assert again.probed == [4] and again.records == []
    assert (found.stop_reason, found.probes, found.final_loss) == (whole.stop_reason, whole.probes, whole.final_loss)


def test_steps_are_saved_before_they_are_judged() -> None:
    """A suite takes long: killed within it, a run has lost the probe and no step."""
    hooks = Scripted([0.5] * 7, [0.9] * 7)
    asked = plan(every=2, stop_rules=[], gates=[ProbeGate(at_step=3, pass_rate=0.4)], extend_to=5)
    run(hooks, asked, steps=5, base=3)
    assert hooks.order == ["probed 0", "saved 2", "probed 2", "saved 3", "probed 3", "saved 4", "probed 4", "saved 5"]


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_that_is_asked_to_stop_leaves_the_probe_to_the_next_one(step: int) -> None:
    """Also at the last step; then the next run does nothing else. Weights and probes are those of a run left alone."""
    asked = plan(every=2, stop_rules=[])
    whole = Scripted([0.1, 0, 0.2, 0, 0.3], [0.9] * 5)
    expected = run(whole, asked, steps=4)
    hooks = Scripted([0.1, 0, 0.2, 0, 0.3], [0.9] * 5, stop_in=step)
    stopped = run(hooks, asked, steps=4)
    assert (stopped.finished, stopped.step) == (False, step)
    assert step not in hooks.probed
    again = Scripted([0.1, 0, 0.2, 0, 0.3], [0.9] * 5)
    found = run(again, asked, steps=4, resume=hooks.pending[step].result())
    assert again.probed == [each for each in (2, 4) if each >= step]
    assert (found.finished, found.probes, found.final_loss) == (True, expected.probes, expected.final_loss)
    last = (again.pending or hooks.pending)[4].result()
    for name, value in whole.pending[4].result().parameters.items():
        assert torch.equal(value, last.parameters[name])


def test_the_live_model_answers_as_it_serves_and_trains_on_as_before() -> None:
    tokenizer = tiny_tokenizer()
    recipe = make_recipe()
    model = recipe._model
    told: list[tuple[int, int]] = []
    live = LiveModel(model, tokenizer, CPU, lambda done, total: told.append((done, total)))
    before = float(row_loss(model, DOCUMENTS[:2], CPU).detach())
    prompts = [Prompt(text="open the lamp", max_tokens=4), Prompt(text="wait", max_tokens=6)]
    together = live(prompts)
    assert told == [(2, 2)], "so that a long suite is not taken for a hang"
    assert together == [live([prompt])[0] for prompt in prompts], "padding changes nothing"
    for prompt, answer in zip(prompts, together, strict=True):
        assert len(tokenizer(answer.text)["input_ids"]) <= prompt.max_tokens
    assert model.training and model.get_base_model().config._attn_implementation == IMPLEMENTATION
    assert float(row_loss(model, DOCUMENTS[:2], CPU).detach()) == before


def test_the_live_model_ends_where_serving_ends_and_has_no_habits_of_the_base() -> None:
    """The generation configuration's end tokens count beside the tokenizer's; its repetition penalty does not."""
    tokenizer, model = tiny_tokenizer(), make_recipe()._model
    prompt = Prompt(text="open the lamp", max_tokens=8)
    plain = LiveModel(model, tokenizer, CPU)([prompt])[0]
    said = tokenizer(plain.text, add_special_tokens=False)["input_ids"]
    base = model.get_base_model()
    base.generation_config.repetition_penalty = 50.0
    base.generation_config.no_repeat_ngram_size = 1
    assert LiveModel(model, tokenizer, CPU)([prompt])[0] == plain
    base.generation_config.eos_token_id = [said[1]]
    cut = LiveModel(model, tokenizer, CPU)([prompt])[0]
    assert cut.stopped
    assert cut.text == tokenizer.decode(said[: said.index(said[1])])
    assert base.generation_config.repetition_penalty == 50.0
    assert end_tokens([4, 2], 3) == [2, 3, 4]
    assert end_tokens(None, None) == []
