"""From a FineTuneRun's spec to the settings of its job: one mapping for the operator and for `sluice train`."""

from typing import Any

from sluice_api.v1alpha1.finetunerun import Dpo, FineTuneRunSpec, ProbesSpec

BUILTIN_SUITE = "builtin:"
"""Scheme of the suites that come with the evaluator."""


def train_settings(spec: FineTuneRunSpec) -> dict[str, Any]:
    """The fields of a `TrainJob` that the spec alone decides."""
    modules = spec.lora.target_modules
    all_linear = modules == "all-linear"
    return {
        "method": spec.method,
        "dpo_beta": (spec.dpo or Dpo()).beta,
        "lora_rank": spec.lora.rank,
        "lora_alpha": spec.lora.alpha,
        "lora_dropout": spec.lora.dropout,
        "target_modules": modules if all_linear else [name.strip() for name in modules.split(",") if name.strip()],
        "learning_rate": spec.optimizer.learning_rate,
        "schedule": spec.optimizer.schedule,
        "warmup_ratio": spec.optimizer.warmup_ratio,
        "tokens_per_step": spec.optimizer.tokens_per_step,
        "epochs": spec.optimizer.epochs,
        "max_steps": spec.optimizer.max_steps,
        "max_length": spec.sequence.max_length,
        "packing": spec.sequence.packing,
        "activation_checkpointing": spec.sequence.activation_checkpointing,
        "phases": [
            {
                "until": phase.until,
                "train": list(phase.train),
                "freeze": list(phase.freeze),
                "learning_rate": phase.learning_rate,
                "learning_rates": {each.group: each.learning_rate for each in phase.learning_rates},
            }
            for phase in spec.phases
        ],
        "probes": _probes(spec.probes) if spec.probes is not None else None,
        "checkpoint_every": spec.checkpoint.every,
        "checkpoint_keep": spec.checkpoint.keep,
        "workers": spec.workers,
        "min_workers": spec.min_workers,
        "strategy": spec.strategy,
        "seed": spec.seed,
    }


def workers_problem(spec: FineTuneRunSpec) -> str:
    """What is wrong with workers and strategy taken together, by field; empty when nothing is."""
    if spec.min_workers is not None and spec.min_workers > spec.workers:
        return f"spec.minWorkers is {spec.min_workers}, spec.workers {spec.workers}: it must not exceed it"
    if spec.strategy == "fsdp" and spec.workers < 2:
        return (
            f"spec.strategy fsdp shares the base out over workers, spec.workers is {spec.workers}: set it to 2 or more"
        )
    if spec.strategy == "fsdp" and spec.min_workers is not None and spec.min_workers < 2:
        return (
            f"spec.strategy fsdp shares the base out over workers, spec.minWorkers is {spec.min_workers}: set it to 2 "
            "or more, so that no attempt starts with one"
        )
    if spec.strategy == "fsdp" and spec.probes is not None:
        return (
            "spec.strategy fsdp cannot have spec.probes: a probe is answered by one worker, which needs all weights; "
            "set spec.strategy to ddp, or leave the probes to an EvalRun"
        )
    return ""


def schedule_problem(spec: FineTuneRunSpec) -> str:
    """What is wrong with method, phases and probes taken together, by field; empty when nothing is."""
    if spec.dpo is not None and spec.method != "dpo":
        return f"spec.dpo is only for spec.method dpo, which is {spec.method}"
    ends = [phase.until for phase in spec.phases]
    if None in ends[:-1]:
        return f"spec.phases[{ends.index(None)}].until is missing: only the last phase may have none"
    known = [end for end in ends if end is not None]
    if known != sorted(set(known)):
        return f"spec.phases: until must increase strictly, got {known}"
    probes, steps = spec.probes, spec.optimizer.max_steps
    if probes is None:
        return ""
    if bool(probes.gates) != (probes.extend_to is not None):
        return "spec.probes: gates and extendTo need each other"
    if probes.extend_to is not None and (steps is None or steps >= probes.extend_to):
        return f"spec.probes.extendTo {probes.extend_to} needs a smaller spec.optimizer.maxSteps, got {steps}"
    late = [gate.at_step for gate in probes.gates if steps is not None and gate.at_step > steps]
    return f"spec.probes.gates: atStep {late[0]} exceeds spec.optimizer.maxSteps {steps}" if late else ""


def _probes(probes: ProbesSpec) -> dict[str, Any]:
    return {
        "every": probes.every,
        "suite_uri": probes.suite if ":" in probes.suite else BUILTIN_SUITE + probes.suite,
        "stop_rules": list(probes.stop_rules),
        "patience_steps": probes.patience_steps,
        "gates": [gate.model_dump() for gate in probes.gates],
        "extend_to": probes.extend_to,
    }
