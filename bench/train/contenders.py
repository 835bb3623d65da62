"""The contenders: the product's loop, and TRL's trainers at the settings that are fastest for them here.

Same model, weights, tokens, scored tokens, adapter, precision (fp32), clipping, optimizer and tokens or pairs of a step
for all. Logging, saving, progress bars and gradient checkpointing are off for TRL, whose defaults would cost it speed.
Further settings of TRL, for an accelerator, are those of `bench/gpu/peers.py`.
"""

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
import workload
from turns import NoMoreTurnsError, Turn

Ready = Callable[[], Turn]
"""Called once a contender has everything in memory."""


class _TurnHooks:
    """The product's loop, held between its steps."""

    def __init__(self, turn: Turn, units: Callable[[Any], float]) -> None:
        self._turn = turn
        self._units = units
        turn.begin()

    def step_done(self, record: Any) -> None:
        """End the turn, wait for the next."""
        self._turn.end(self._units(record), loss=record.loss)
        if not self._turn.begin():
            raise NoMoreTurnsError

    def stop_requested(self) -> bool:
        """Never."""
        return False

    def checkpoint(self, step: int, take: Callable[[], Any]) -> None:
        """Nothing is saved."""


def _adapted(toy: workload.Toy) -> Any:
    from sluice_trainer.attention import IMPLEMENTATION
    from sluice_trainer.fused import fuse
    from sluice_trainer.model import LoraSettings, add_adapter

    base = workload.toy_model(toy).requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    return fuse(add_adapter(base, LoraSettings(rank=workload.RANK, alpha=workload.ALPHA), seed=0))


def _longest_row(toy: workload.Toy, tokens_per_step: int) -> int:
    """Tokens of a row at most: on an accelerator a whole step's, since short rows leave it waiting for launches."""
    return toy.row if toy.device == "cpu" else max(toy.row, tokens_per_step)


def _carry_out(
    ready: Ready, toy: workload.Toy, recipe: Any, sizes: Any, units: Callable[[Any], float], **shape: Any
) -> None:
    from sluice_trainer.loop import LoopConfig, train
    from sluice_trainer.plan import PlanConfig, build_plan
    from sluice_trainer.schedule import Schedule

    limit = _longest_row(toy, shape["tokens_per_step"])
    plan = build_plan(sizes, PlanConfig(max_length=limit, max_steps=100_000 // len(sizes), **shape))
    schedule = Schedule(peak=workload.RATE, steps=len(plan.steps), decay="constant", warmup_ratio=0.0)
    try:
        train(plan, _TurnHooks(ready(), units), recipe=recipe, config=LoopConfig(schedule=schedule))
    except NoMoreTurnsError:
        return


def sft_sluice(ready: Ready, toy: workload.Toy) -> None:
    """The product: packed rows, per-document attention, a head for scored tokens."""
    from sluice_trainer.model import trained_parameters
    from sluice_trainer.recipes import SftRecipe, sft_sizes

    model, documents = _adapted(toy), workload.chats(toy.chats)
    recipe = SftRecipe(model, documents, trained_parameters(model), torch.device(toy.device))
    _carry_out(ready, toy, recipe, sft_sizes(documents), lambda record: record.tokens, tokens_per_step=toy.row)


def dpo_sluice(ready: Ready, toy: workload.Toy) -> None:
    """The product: a pair's prompt once, nothing padded; the reference's pass is part of every turn, as it is TRL's."""
    from sluice_trainer.dpo import DpoRecipe, pair_sizes, reference_log_probabilities
    from sluice_trainer.group import Alone
    from sluice_trainer.model import trained_parameters

    model, pairs = _adapted(toy), workload.pairs()
    device = torch.device(toy.device)
    per_step = round(sum(sum(pair.lengths) for pair in pairs) / len(pairs) * toy.pairs)

    def reference(some: list[Any]) -> torch.Tensor:
        limit = _longest_row(toy, per_step)
        return reference_log_probabilities(model, some, row_tokens=limit, device=device, group=Alone())

    recipe = DpoRecipe(
        model, pairs, trained_parameters(model), reference=reference(pairs), beta=workload.BETA, device=device
    )
    steps: dict[str, float] = {}

    def units(record: Any) -> float:
        count = round(record.epoch * len(pairs) - steps.get("pairs", 0.0))
        steps["pairs"] = record.epoch * len(pairs)
        return count

    _carry_out(
        lambda: _WithReference(ready(), lambda count: reference(pairs[:count])),
        toy,
        recipe,
        pair_sizes(pairs),
        units,
        tokens_per_step=per_step,
    )


class _WithReference(Turn):
    """Turns that include the reference's pass over as many pairs as were trained on: what one epoch costs."""

    def __init__(self, turn: Turn, reference: Callable[[int], torch.Tensor]) -> None:
        self._turn = turn
        self._reference = reference

    def begin(self) -> bool:
        """Wait for the next turn."""
        return self._turn.begin()

    def end(self, units: float, **figures: float) -> None:
        """Compute the reference of as many pairs, then end the turn."""
        self._reference(round(units))
        self._turn.end(units, **figures)


def _turn_callback(turn: Turn, units: Callable[[], float]) -> Any:
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        """transformers' loop, held between its steps."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turn.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turn.end(units())
            if not turn.begin():
                raise NoMoreTurnsError

    return Callback()


def _settings(folder: str, toy: workload.Toy, **options: Any) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "learning_rate": workload.RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "max_steps": 10_000,
        "activation_checkpointing": False,
        "bf16": toy.bf16,
        "use_cpu": toy.device == "cpu",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
        **options,
    }


def _peft_config() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=workload.RANK, lora_alpha=workload.ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")


def _tokenizer() -> Any:
    """TRL wants one, though every token is given: a vocabulary of numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {str(number): number for number in range(workload.VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1")


def _run_trl(ready: Ready, make: Callable[[str], Any]) -> None:
    warnings.simplefilter("ignore")
    counts: list[float] = []
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        trainer = make(folder)
        collate = trainer.data_collator

        def counted(examples: list[dict[str, Any]]) -> Any:
            counts.append(_real(examples))
            return collate(examples)

        trainer.data_collator = counted

        def units() -> float:
            # Trainer prepares batches ahead of the step, so that counts are taken in order, one a batch of the step.
            batches = trainer.current_gradient_accumulation_steps
            done = sum(counts[:batches])
            del counts[:batches]
            return done

        trainer.add_callback(_turn_callback(ready(), units))
        try:
            trainer.train()
        except NoMoreTurnsError:
            return


def _real(examples: list[dict[str, Any]]) -> float:
    """Real tokens of supervised rows, or pairs."""
    if "input_ids" in examples[0]:
        return float(sum(len(example["input_ids"]) for example in examples))
    return float(len(examples))


def _peer_model(toy: workload.Toy, attention: str | None, compiled: bool) -> Any:
    model = workload.toy_model(toy)
    if attention is not None:
        model.set_attn_implementation(attention)
    if compiled:
        # Layer by layer: they are alike, so that one compilation serves all. It happens at the first call, adapter
        # and all.
        for layer in model.model.layers:
            layer.compile()
    return model


def sft_trl(
    ready: Ready, toy: workload.Toy, *, attention: str | None = None, compiled: bool = False, **options: Any
) -> None:
    """TRL's supervised trainer, with further settings of its own; `compiled` compiles every layer."""
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset

    documents = workload.chats(toy.chats)
    data = Dataset.from_dict(
        {
            "input_ids": [document.ids.tolist() for document in documents],
            "assistant_masks": [document.scored.astype(int).tolist() for document in documents],
        }
    )

    def make(folder: str) -> Any:
        return SFTTrainer(
            model=_peer_model(toy, attention, compiled),
            args=SFTConfig(**_settings(folder, toy, max_length=toy.row, **options)),
            train_dataset=data,
            processing_class=_tokenizer(),
            peft_config=_peft_config(),
        )

    _run_trl(ready, make)


def sft_trl_packed(ready: Ready, toy: workload.Toy) -> None:
    """TRL: packed rows of as many tokens, one a step."""
    sft_trl(ready, toy, packing=True, per_device_train_batch_size=1)


def sft_trl_padded(ready: Ready, toy: workload.Toy) -> None:
    """TRL: eight conversations a step, padded to the longest."""
    sft_trl(ready, toy, packing=False, per_device_train_batch_size=8)


def _words(tokens: Any) -> str:
    """Tokens as the text that the tokenizer of numbers makes them of again: TRL's DPO takes no tokens."""
    return " ".join(map(str, tokens.tolist()))


def dpo_trl(ready: Ready, toy: workload.Toy) -> None:
    """TRL: eight pairs a step, padded."""
    trl_on_pairs(ready, toy, per_device_train_batch_size=toy.pairs)


def trl_on_pairs(ready: Ready, toy: workload.Toy, **options: Any) -> None:
    """TRL's trainer of pairs, with further settings of its own; the reference by switching the adapter off."""
    from trl import DPOConfig, DPOTrainer

    from datasets import Dataset

    pairs = workload.pairs()
    data = Dataset.from_dict(
        {
            "prompt": [_words(pair.prompt) for pair in pairs],
            "chosen": [" " + _words(pair.chosen) for pair in pairs],
            "rejected": [" " + _words(pair.rejected) for pair in pairs],
        }
    )

    def make(folder: str) -> Any:
        return DPOTrainer(
            model=workload.toy_model(toy),
            args=DPOConfig(**_settings(folder, toy, max_length=toy.row, beta=workload.BETA, **options)),
            train_dataset=data,
            processing_class=_tokenizer(),
            peft_config=_peft_config(),
        )

    _run_trl(ready, make)


CHECKPOINT_RANK = 1440
"""Rank at which the toy's adapter and its moments are 0.5 GB, as an 8B model's are at rank 16."""
CHECKPOINT_EVERY = 4
"""Steps between checkpoints; a turn is as many."""


class _CheckpointHooks(_TurnHooks):
    """Checkpoints for real; a turn ends with the last step before the next one."""

    def __init__(self, turn: Turn, checkpointer: Any, synchronous: bool) -> None:
        super().__init__(turn, lambda record: 1.0)
        self._checkpointer = checkpointer
        self._synchronous = synchronous
        self._stalled = 0.0

    def step_done(self, record: Any) -> None:
        """End the turn of a checkpoint with the step before the next one."""
        if record.step % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
            stalled, self._stalled = record.stall_seconds - self._stalled, record.stall_seconds
            self._turn.end(1.0, stall=stalled)
            if not self._turn.begin():
                raise NoMoreTurnsError

    def checkpoint(self, step: int, take: Callable[[], Any]) -> None:
        """Save, and where it is synchronous wait until everything is written."""
        self._checkpointer.save(take)
        if self._synchronous:
            self._checkpointer.wait()


def _checkpointed(ready: Ready, toy: workload.Toy, *, synchronous: bool) -> None:
    from sluice_trainer.attention import IMPLEMENTATION
    from sluice_trainer.checkpoint import AdapterNames, Checkpointer, peft_names
    from sluice_trainer.fused import fuse
    from sluice_trainer.loop import LoopConfig, train
    from sluice_trainer.model import LoraSettings, adapter_state, add_adapter, trained_parameters
    from sluice_trainer.plan import PlanConfig, build_plan
    from sluice_trainer.recipes import SftRecipe, sft_sizes
    from sluice_trainer.schedule import Schedule

    base = workload.toy_model(toy).requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    model = fuse(add_adapter(base, LoraSettings(rank=CHECKPOINT_RANK, alpha=CHECKPOINT_RANK), seed=0))
    parameters = trained_parameters(model)
    names = AdapterNames(config=b"{}", by_parameter=peft_names(parameters, adapter_state(model)))
    documents = workload.chats()
    plan = build_plan(sft_sizes(documents), PlanConfig(max_length=2048, tokens_per_step=2048, max_steps=10_000))
    schedule = Schedule(peak=workload.RATE, steps=len(plan.steps), decay="constant", warmup_ratio=0.0)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        checkpointer = Checkpointer(uri=f"file://{folder}", fingerprint="bench", attempt=1, keep=1, names=names)
        hooks = _CheckpointHooks(ready(), checkpointer, synchronous)
        recipe = SftRecipe(model, documents, parameters, torch.device(toy.device))
        try:
            train(
                plan,
                hooks,
                recipe=recipe,
                config=LoopConfig(schedule=schedule, checkpoint_every=CHECKPOINT_EVERY),
            )
        except NoMoreTurnsError:
            checkpointer.wait()


def checkpoint_sluice(ready: Ready, toy: workload.Toy) -> None:
    """The product: copied beside the next step, written in the background."""
    _checkpointed(ready, toy, synchronous=False)


def checkpoint_synchronous(ready: Ready, toy: workload.Toy) -> None:
    """The same files, with training waiting until they are written."""
    _checkpointed(ready, toy, synchronous=True)
