"""The same job bare and under Ray, run after run in turns."""

import json
import os
import tempfile
import time
from pathlib import Path

import workload

STEPS = 24
"""Optimizer steps of a run."""
STEP_TOKENS = 2048
"""Tokens of a step."""
TEMPLATE = (
    "{% for message in messages %}{{ '3 ' if message['role'] == 'user' else '4 ' }}{{ message['content'] }} 1 "
    "{% endfor %}{% if add_generation_prompt %}4 {% endif %}"
)
"""Turns of numbers: 3 and 4 open a turn, 1 ends it."""


def _base(folder: Path, toy: workload.Toy) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(n): n for n in range(workload.VOCABULARY)}, unk_token="2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1", chat_template=TEMPLATE)
    tokenizer.save_pretrained(folder)
    workload.toy_model(toy).save_pretrained(folder)
    return folder


def _rows(path: Path) -> Path:
    lines = []
    for number, document in enumerate(workload.chats()):
        words = [str(token) for token in document.ids]
        half = len(words) // 2
        turns = [{"from": "human", "value": " ".join(words[:half])}, {"from": "gpt", "value": " ".join(words[half:])}]
        meta = {"run_id": f"run-{number}", "step": 0, "label": "positive", "label_reason": "gate_verify_pass"}
        lines.append(json.dumps({"conversations": turns, "metadata": meta}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def measure(toy: workload.Toy, rounds: int, seconds: float, threads: int) -> dict[str, list[float]]:
    """Tokens per second of each run, by how it was run, both in turns on one machine.

    No round but the first begins after `seconds`; every other round begins with the other way. Every run computes with
    `threads` threads.

    Raises:
        RuntimeError: a run failed.
    """
    import torch

    from sluice_api.contracts.jobs import Result, TrainOutput
    from sluice_artifacts.reporting import run_worker
    from sluice_cli.main import build_parser
    from sluice_trainer import worker
    from sluice_trainer.commands import build_job
    from sluice_trainer.ray_adapter import CPUS_VARIABLE

    rates: dict[str, list[float]] = {"bare": [], "under Ray": []}
    ways = {"bare": worker.run_bare, "under Ray": worker.run}
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as scratch:
        folder = Path(scratch)
        os.environ |= {worker.CACHE_VARIABLE: str(folder / "cache"), CPUS_VARIABLE: str(threads)}
        torch.set_num_threads(threads)
        base, rows = _base(folder / "base", toy), _rows(folder / "rows.jsonl")
        began = time.monotonic()
        for number in range(rounds):
            if number and time.monotonic() - began > seconds:
                break
            for way, function in list(ways.items())[:: -1 if number % 2 else 1]:
                argv = [
                    "train", "--train-jsonl", str(rows), "--base-model", str(base),
                    "--output-dir", str(folder / f"{way.replace(' ', '-')}-{number}"),
                    "--max-steps", str(STEPS), "--tokens-per-step", str(STEP_TOKENS),
                    "--max-seq-length", str(STEP_TOKENS), "--checkpoint-every", "1000",
                ]  # fmt: skip
                job = build_job(build_parser(argv).parse_args(argv))
                run_worker(job, function)
                text = (Path(job.output_uri.removeprefix("file://")) / "result.json").read_bytes()
                result = Result.model_validate_json(text)
                if not isinstance(result.output, TrainOutput):
                    raise RuntimeError(f"the run {way} failed: {result.failure}")
                rates[way].append(result.output.tokens_per_second)
    return rates
