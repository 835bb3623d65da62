"""`sluice train`: a JSONL file of rows and a base model to an adapter, on this machine or on a Ray cluster.

The command builds the same job that the operator would submit and does it with the same worker. Everything lands in
the output folder; a run that was interrupted goes on from its newest checkpoint when the command is given again.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluice_api.contracts.jobs import TrainJob
    from sluice_trainer.live import Prober

EXIT_FAILED = 1
"""Training failed."""
EXIT_UNUSABLE = 2
"""The settings, the rows or the base model cannot be used."""

ADAPTER_FOLDER = "adapter"
"""Below the output folder: the adapter's files, as peft and vLLM load them."""


def add_parser(subparsers: Any, prober: "Prober | None" = None) -> None:
    """Add `sluice train`; every flag of the seed's command is read under each of its names.

    `prober` runs the suites of a manifest's probes.
    """
    parser = subparsers.add_parser("train", help="fine-tune a LoRA adapter on rows")
    flags: dict[str, str] = {}

    def add(*names: str, **options: Any) -> None:
        flags[parser.add_argument(*names, **options).dest] = names[0]

    add("--train-jsonl", "--data", dest="data", type=Path, required=True, help="rows, as `sluice trace convert` writes")
    add("--output-dir", "--output", dest="output", type=Path, required=True, help="folder for everything that is made")
    add("--base-model", "--model", dest="base", required=True, help="folder, or hf://, s3:// or file:// URI")
    add("--revision", default="", help="revision on the hub; only for hf://")
    add("--method", choices=["sft", "dpo"], default="sft", help="supervised, or preference pairs (%(default)s)")
    add("--dpo-beta", type=float, default=0.1, help="pull towards the reference; only for dpo (%(default)s)")
    add("--lora-r", "--lora-rank", dest="rank", type=int, default=16, help="LoRA rank (%(default)s)")
    add("--lora-alpha", dest="alpha", type=int, help="LoRA alpha (twice the rank)")
    add("--lora-dropout", dest="dropout", type=float, default=0.0, help="LoRA dropout (%(default)s)")
    add(
        "--target-modules",
        nargs="+",
        default=["all-linear"],
        help="modules with an adapter, with blanks or commas (%(default)s)",
    )
    add("--manifest", type=Path, help="a FineTuneRun in YAML: its settings, phases and probes instead of flags")
    add("--epochs", type=float, default=5.0, help="passes over the rows (%(default)s)")
    add("--max-steps", type=int, help="optimizer steps, instead of epochs")
    add("--batch-size", type=int, default=1, help="sequences of full length at a time (%(default)s)")
    add("--gradient-accumulation", type=int, default=8, help="batches in an optimizer step (%(default)s)")
    add("--tokens-per-step", type=int, help="tokens in an optimizer step (batch size × accumulation × length)")
    add("--lr", "--learning-rate", dest="lr", type=float, default=1e-4, help="peak learning rate (%(default)s)")
    add("--schedule", choices=["cosine", "linear", "constant"], default="cosine", help="decay (%(default)s)")
    add("--warmup-ratio", type=float, default=0.03, help="share of the steps that warm up (%(default)s)")
    add("--max-seq-length", type=int, default=2048, help="longest row in tokens (%(default)s)")
    add("--no-packing", action="store_true", help="one row of data a sequence")
    add("--checkpoint-every", type=int, default=250, help="steps between checkpoints (%(default)s)")
    add("--seed", type=int, default=0, help="seed of order and initialisation (%(default)s)")
    add("--workers", type=int, default=1, help="Ray Train workers (%(default)s)")
    add("--min-workers", type=int, help="start and go on with as few where there is no room for all (all of them)")
    add("--strategy", choices=["auto", "ddp", "fsdp"], default="auto", help="who holds the base (%(default)s)")
    add("--gpu", action="store_true", help="give every worker an accelerator")
    add("--no-ray", action="store_true", help="train in this process")
    add("--json", action="store_true", help="print the result as JSON")
    defaults = {name: parser.get_default(name) for name in _FROM_MANIFEST}
    parser.set_defaults(handler=lambda arguments: run(arguments, prober), defaults=defaults, flags=flags)


def run(arguments: argparse.Namespace, prober: "Prober | None" = None) -> int:
    """Train; 0 when there is an adapter, 2 when the input cannot be used, 1 for any other failure."""
    from sluice_artifacts import ArtifactError
    from sluice_trainer.output_folder import held

    with ExitStack() as stack:
        try:
            stack.enter_context(held(arguments.output.resolve()))
            job = build_job(arguments)
        except (OSError, ValueError, ArtifactError) as error:
            print(f"sluice train: {error}", file=sys.stderr)
            return EXIT_UNUSABLE
        return _carry_out(job, arguments, prober)


def _carry_out(job: "TrainJob", arguments: argparse.Namespace, prober: "Prober | None") -> int:
    """Do the job with the worker, and show what came of it."""
    from sluice_api.contracts.dataset import TRAIN_FILE
    from sluice_api.contracts.jobs import FailureClass, Result, TrainOutput
    from sluice_artifacts import ArtifactError
    from sluice_artifacts.files import file_path
    from sluice_artifacts.reporting import run_worker
    from sluice_trainer import worker
    from sluice_trainer.progress_bar import shown

    folder = file_path(job.output_uri)
    with shown(folder, quiet=arguments.json):
        status = run_worker(job, partial(worker.run_bare if arguments.no_ray else worker.run, prober=prober))
    if status != 0:
        print(f"sluice train: no result could be written to {arguments.output}", file=sys.stderr)
        return EXIT_FAILED
    result = Result.model_validate_json((folder / "result.json").read_bytes())
    if result.failure is not None or not isinstance(result.output, TrainOutput):
        failure = result.failure
        shown_failure = f"{failure.failure_class}: {failure.message}" if failure else "no output"
        # The rows were published under a name of their own, which messages then have.
        named = f" ({TRAIN_FILE} is {arguments.data})" if TRAIN_FILE in shown_failure else ""
        print(f"sluice train: {shown_failure}{named}", file=sys.stderr)
        unusable = {FailureClass.DATA, FailureClass.USER_ERROR}
        return EXIT_UNUSABLE if failure and failure.failure_class in unusable else EXIT_FAILED
    try:
        _show(result.output, arguments)
    except (ArtifactError, OSError) as error:
        print(f"sluice train: trained, but the adapter cannot be copied: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def build_job(arguments: argparse.Namespace) -> "TrainJob":
    """The job that the flags describe; publishes the rows below the output folder and claims the next attempt there.

    Raises:
        OSError: the rows cannot be read, or the output folder cannot be written.
        ArtifactError: the rows cannot be published there.
        ValueError: the manifest or a flag cannot be used.
    """
    from sluice_api.contracts.base import Contract, ModelRef, RunRef
    from sluice_api.contracts.dataset import TRAIN_FILE, DatasetManifest, FileEntry
    from sluice_api.contracts.jobs import TrainJob
    from sluice_artifacts import publish
    from sluice_trainer.output_folder import ATTEMPTS, CHECKPOINTS, claim_attempt, rereadable
    from sluice_trainer.rows import FORMATS
    from sluice_trainer.version import code_version

    settings = _manifest_settings(arguments) if arguments.manifest else _flag_settings(arguments)
    base = ModelRef(uri=_model_uri(arguments.base), revision=arguments.revision)
    if base.revision and not base.uri.startswith("hf://"):
        raise ValueError(f"--revision {base.revision}: only a model of the hub (hf://) has revisions; leave it out")
    output: Path = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)

    def manifest(files: list[FileEntry]) -> Contract:
        return DatasetManifest(
            files=files, rows=rows, holdout_rows=0, format=FORMATS[settings["method"]], code_version=code_version()
        )

    with rereadable(arguments.data) as data:
        with data.open("rb") as stream:
            rows = sum(1 for line in stream if line.strip())
        dataset = publish(f"{output.as_uri()}/dataset/", {TRAIN_FILE: data}, manifest)
    attempt = claim_attempt(output)
    return TrainJob(
        run=RunRef(kind="FineTuneRun", namespace="", name=output.name, uid=f"local-{output.name}"),
        attempt=attempt,
        output_uri=f"{output.as_uri()}/{ATTEMPTS}/{attempt}/",
        dataset=dataset,
        base_model=base,
        checkpoint_uri=f"{output.as_uri()}/{CHECKPOINTS}/",
        adapter_uri=f"{output.as_uri()}/adapters/",
        use_gpu=arguments.gpu,
        **settings,
    )


def _flag_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags say."""
    targets = [name for text in arguments.target_modules for name in text.split(",") if name]
    return {
        "method": arguments.method,
        "dpo_beta": arguments.dpo_beta,
        "lora_rank": arguments.rank,
        "lora_alpha": arguments.alpha if arguments.alpha is not None else 2 * arguments.rank,
        "lora_dropout": arguments.dropout,
        "target_modules": targets[0] if targets == ["all-linear"] else targets,
        "learning_rate": arguments.lr,
        "schedule": arguments.schedule,
        "warmup_ratio": arguments.warmup_ratio,
        "tokens_per_step": arguments.tokens_per_step
        if arguments.tokens_per_step is not None
        else arguments.batch_size * arguments.gradient_accumulation * arguments.max_seq_length,
        "epochs": arguments.epochs,
        "max_steps": arguments.max_steps,
        "max_length": arguments.max_seq_length,
        "packing": not arguments.no_packing,
        "checkpoint_every": arguments.checkpoint_every,
        "workers": arguments.workers,
        "min_workers": arguments.min_workers,
        "strategy": arguments.strategy,
        "seed": arguments.seed,
    }


_FROM_MANIFEST = (
    "method", "dpo_beta", "rank", "alpha", "dropout", "target_modules", "epochs", "max_steps", "batch_size",
    "gradient_accumulation", "tokens_per_step", "lr", "schedule", "warmup_ratio", "max_seq_length", "no_packing",
    "checkpoint_every", "seed", "workers", "min_workers", "strategy",
)  # fmt: skip
"""Destinations of the flags that a manifest replaces."""


def _manifest_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of the first FineTuneRun in a YAML file.

    Raises:
        ValueError: there is none, it is malformed, or a flag says something else beside it.
    """
    import yaml
    from pydantic import ValidationError

    from sluice_api.training import schedule_problem, train_settings, workers_problem
    from sluice_api.v1alpha1 import FineTuneRun

    path: Path = arguments.manifest
    given = [arguments.flags[name] for name in _FROM_MANIFEST if getattr(arguments, name) != arguments.defaults[name]]
    if given:
        raise ValueError(f"{', '.join(given)}: with --manifest these come from {path}; change them there")
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    found = next((each for each in documents if isinstance(each, dict) and each.get("kind") == "FineTuneRun"), None)
    if found is None:
        raise ValueError(f"{path}: there is no FineTuneRun in it")
    try:
        spec = FineTuneRun.model_validate(found).spec
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {field}: {first['msg']}") from error
    if problem := workers_problem(spec) or schedule_problem(spec):
        raise ValueError(f"{path}: {problem}")
    if spec.parent_ref is not None:
        raise ValueError(
            f"{path}: spec.parentRef: a run of this command starts from the base model; leave it out, or let the "
            "operator do the run"
        )
    return train_settings(spec)


def _show(output: Any, arguments: argparse.Namespace) -> None:
    """Copy the adapter to a folder with a plain name and print the result."""
    from sluice_api.contracts.models import AdapterManifest
    from sluice_artifacts import fetch

    place = arguments.output.resolve() / ADAPTER_FOLDER
    fetch(output.adapter, place, AdapterManifest)
    if arguments.json:
        print(json.dumps({**output.model_dump(mode="json"), "folder": str(place)}, indent=2))
        return
    for probe in output.probes:
        rates = ", ".join(
            f"{name} {'unknown' if rate is None else f'{rate:.1%}'}"
            for name, rate in (("passed", probe.pass_rate), ("well-formed", probe.syntax_rate))
        )
        print(f"probe at step {probe.step}: {probe.judged} of {probe.tasks} tasks judged, {rates}")
    if output.stop_reason != "Completed":
        print(f"ended early: {output.stop_reason}")
    resumed = f", resumed from step {output.resumed_from_step}" if output.resumed_from_step else ""
    print(f"trained {output.steps} steps, final loss {output.final_loss:.4f}{resumed}")
    if output.tokens_per_second:
        print(f"{output.tokens_per_second:,.0f} tokens/s")
    print(f"adapter {output.adapter.digest} in {place}")


def _model_uri(text: str) -> str:
    """A base model as a URI; a plain path is a folder of this machine."""
    return text if "://" in text else Path(text).resolve().as_uri()
