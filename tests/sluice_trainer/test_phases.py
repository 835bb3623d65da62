"""Phases: who is trained when, with a tiny mixture of experts; optimizer state across the change."""

from typing import Any

import pytest
import torch

from documents import tokenize_rows
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import FailureClass, ProbeResult
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.loop import LoopConfig, StepRecord, train
from sluice_trainer.model import LoraSettings, add_adapter, trained_parameters
from sluice_trainer.parameter_groups import check_group, in_group, layer_of, role_of
from sluice_trainer.phases import Phase, Phases, check_phases, trained_roles
from sluice_trainer.plan import Plan, PlanConfig, build_plan
from sluice_trainer.recipes import SftRecipe, sft_sizes
from sluice_trainer.schedule import Schedule
from sluice_trainer.snapshot import PendingSnapshot, Snapshot, Take
from tiny_models import sft_row, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
DOCUMENTS = tokenize_rows([SftRow.model_validate(sft_row(number)) for number in range(12)], tiny_tokenizer())
SEED = (
    Phase(until=3, train=("attention", "router", "norm"), freeze=("experts",), learning_rate=2e-3),
    Phase(train=("attention", "experts"), learning_rates={"experts": 1e-3, "layers:1-1": 3e-3}),
)
"""The seed's schedule in small: experts frozen first, selected parameters afterwards."""


class Recorder:
    """Keeps records, snapshots, and after each step the parameters."""

    def __init__(self, recipe: SftRecipe) -> None:
        self.recipe = recipe
        self.records: list[StepRecord] = []
        self.pending: dict[int, PendingSnapshot] = {}
        self.weights = [self._copy()]

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.recipe.parameters.items()}

    def step_done(self, record: StepRecord) -> None:
        self.records.append(record)
        self.weights.append(self._copy())

    def stop_requested(self) -> bool:
        return False

    def checkpoint(self, step: int, take: Take) -> None:
        self.pending[step] = take()

    def probe(self, step: int) -> ProbeResult:
        raise AssertionError(f"no probe is due at step {step}")

    def changed(self, step: int) -> set[str]:
        """Names of the parameters that a step (from 1) changed."""
        before, after = self.weights[step - 1], self.weights[step]
        return {name for name in after if not torch.equal(before[name], after[name])}


def make_recipe(phases: tuple[Phase, ...] = SEED) -> SftRecipe:
    base = tiny_model(tiny_tokenizer(), architecture="qwen3_moe").requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    model = add_adapter(base, LoraSettings(rank=4, alpha=8, roles=trained_roles(phases)), seed=5)
    return SftRecipe(model, DOCUMENTS, trained_parameters(model), CPU)


def make_plan() -> Plan:
    return build_plan(sft_sizes(DOCUMENTS), PlanConfig(seed=5, max_length=300, tokens_per_step=700, max_steps=6))


def run(recipe: SftRecipe, phases: tuple[Phase, ...] = SEED, resume: Snapshot | None = None) -> Recorder:
    hooks = Recorder(recipe)
    schedule = Schedule(peak=5e-3, steps=6, decay="constant", warmup_ratio=0.0)
    config = LoopConfig(schedule=schedule, checkpoint_every=1, phases=phases)
    train(make_plan(), hooks, recipe=recipe, config=config, resume=resume)
    return hooks


@pytest.fixture(scope="module")
def clean() -> Recorder:
    return run(make_recipe())


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.layers.3.self_attn.q_proj.lora_A.default.weight", "attention"),
        ("model.layers.3.self_attn.q_norm.weight", "norm"),
        ("model.layers.3.post_attention_layernorm.weight", "norm"),
        ("model.norm.weight", "norm"),
        ("model.layers.3.mlp.gate.weight", "router"),
        ("model.layers.3.block_sparse_moe.gate.weight", "router"),
        ("model.layers.3.mlp.gate_proj.lora_B.default.weight", "mlp"),
        ("model.layers.3.mlp.experts.gate_up_proj", "experts"),
        ("model.layers.3.mlp.experts.5.up_proj.weight", "experts"),
        ("model.layers.3.mlp.shared_expert.up_proj.weight", "experts"),
        ("model.layers.3.linear_attn.in_proj.weight", "attention"),
        ("lm_head.weight", "other"),
    ],
)
def test_a_parameters_role_is_read_off_its_name(name: str, role: str) -> None:
    assert role_of(name) == role
    assert in_group(name, role)
    assert layer_of(name) == (3 if ".3." in name else None)
    assert in_group(name, "layers:2-3") == (".3." in name)
    assert not in_group(name, "layers:4-9")


@pytest.mark.parametrize("group", ["atention", "layers:3-1", "layers:3", ""])
def test_what_is_no_group_is_refused(group: str) -> None:
    with pytest.raises(ValueError, match="is no parameter group"):
        check_group(group)


def test_each_phase_changes_its_groups_and_nothing_else(clean: Recorder) -> None:
    for step in range(1, 7):
        roles = {role_of(name) for name in clean.changed(step)}
        assert roles == ({"attention", "router", "norm"} if step <= 3 else {"attention", "experts"}), step
    everything = {name for name in clean.recipe.parameters if role_of(name) in ("attention", "experts")}
    assert clean.changed(6) == everything
    assert [record.phase for record in clean.records] == [0, 0, 0, 1, 1, 1]
    assert [record.learning_rate for record in clean.records] == pytest.approx([2e-3] * 3 + [5e-3] * 3)


def test_each_group_has_its_own_learning_rate() -> None:
    phases = Phases(SEED, (names := list(make_recipe().parameters)))
    schedule = Schedule(peak=5e-3, steps=6, decay="linear", warmup_ratio=0.0)
    rates = phases.rates(4, schedule)
    share = schedule.rate(4) / 5e-3
    for name in names:
        if role_of(name) not in ("attention", "experts"):
            assert name not in rates
        elif layer_of(name) == 1:
            assert rates[name] == pytest.approx(share * 3e-3)
        else:
            assert rates[name] == pytest.approx(share * (1e-3 if role_of(name) == "experts" else 5e-3))


def test_optimizer_state_is_right_across_the_change(clean: Recorder) -> None:
    """Frozen: neither moments nor their count of steps move; taken up late: the count begins at one."""
    last = clean.pending[6].result()
    steps = {name: last.optimizer[f"{name}/step"].item() for name in clean.recipe.parameters}
    assert {steps[name] for name in steps if role_of(name) == "attention"} == {6}
    assert {steps[name] for name in steps if role_of(name) in ("router", "norm")} == {3}
    assert {steps[name] for name in steps if role_of(name) == "experts"} == {3}
    third = clean.pending[3].result()
    for name in steps:
        if role_of(name) in ("router", "norm"):
            assert torch.equal(last.optimizer[f"{name}/exp_avg"], third.optimizer[f"{name}/exp_avg"])
    assert not any(role_of(key) == "experts" for key in third.optimizer), "never trained, no state"


def test_a_late_first_step_is_that_of_a_fresh_optimizer(clean: Recorder) -> None:
    """AdamW's first step has the size of the learning rate, whatever its bias correction counts elsewhere."""
    before, after = clean.weights[3], clean.weights[4]
    for name in after:
        if role_of(name) == "experts" and "lora_B" in name:
            rate = 3e-3 if layer_of(name) == 1 else 1e-3
            assert (after[name] - before[name]).abs().max() == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("step", range(1, 6))
def test_a_run_resumed_in_any_phase_ends_bit_for_bit_the_same(clean: Recorder, step: int) -> None:
    again = run(make_recipe(), resume=clean.pending[step].result())
    assert all(torch.equal(again.weights[-1][name], clean.weights[-1][name]) for name in clean.weights[-1])


def test_without_phases_everything_adapted_is_trained() -> None:
    hooks = run(make_recipe(()), ())
    assert {role_of(name) for name in hooks.recipe.parameters} == {"attention"}, "fused experts are no linear layers"
    assert hooks.changed(2) == set(hooks.recipe.parameters)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ((Phase(), Phase()), r"^phases\[0\].until is missing"),
        ((Phase(until=0), Phase()), r"^phases\[0\].until is 0: it must be at least 1"),
        ((Phase(until=-3),), r"^phases\[0\].until is -3: it must be at least 1"),
        ((Phase(until=4), Phase(until=4)), r"^phases\[1\].until is 4"),
    ],
)
def test_phases_that_do_not_follow_each_other_are_refused(phases: tuple[Phase, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_phases(phases)


def test_a_phase_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^phases\[0\] trains nothing.*router"):
        Phases([Phase(train=("router",))], ["model.layers.0.self_attn.q_proj.lora_A.default.weight"])


def test_a_role_that_the_model_does_not_have_is_a_user_error() -> None:
    base: Any = tiny_model(tiny_tokenizer()).requires_grad_(False)
    with pytest.raises(WorkerError, match="phases train experts, of which the base model has none") as caught:
        add_adapter(base, LoraSettings(rank=4, alpha=8, roles=frozenset({"experts"})), seed=0)
    assert caught.value.failure_class == FailureClass.USER_ERROR
