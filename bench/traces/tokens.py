"""Tokens and masks against `datasets.map` over the chat template, which is how TRL does it."""

import json
import logging
import random
import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from made_up import made_up_traces
from report import Report

from sluice_api.chat import to_messages
from sluice_api.contracts.dataset import Turn
from sluice_traces.convert import NO_SCREENS, ConvertConfig
from sluice_traces.pipeline import RunRows, TracePipeline

TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, with the answers marked."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizers cut words."""
VOCABULARY = 16_000
"""Tokens of the tokenizer, trained on other made-up rows."""
LEXICON = 20_000
"""Different words in the texts; the few of `made_up.py` would be too easy on whoever remembers words."""
_WORD = re.compile(r"\b(?!Task|Screen|size|pixels|click|scroll|done|down)[A-Za-z]{4,}\b")
PROCESSES = 2
"""Cores."""


def lexicon() -> list[str]:
    """Made-up words of one to six syllables, the short ones first."""
    rng = random.Random(0)
    syllables = [onset + vowel for onset in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
    words = dict.fromkeys("".join(rng.choices(syllables, k=1 + 4 * n // LEXICON)) for n in range(2 * LEXICON))
    return list(words)[:LEXICON]


def conversations(count: int, seed: int) -> list[list[Turn]]:
    """So many conversations, as the converter writes them."""
    pipeline = TracePipeline(ConvertConfig(require_screenshot=False))
    rng, rows = random.Random(seed), list[list[Turn]]()
    words = lexicon()

    def other(_: re.Match[str]) -> str:
        # By Zipf's law: the logarithm of a word's rank is uniform.
        return words[int(LEXICON ** rng.random()) - 1]

    for raw in made_up_traces(count, seed):
        found = pipeline.process(raw, NO_SCREENS)
        if isinstance(found, RunRows):
            lines = (json.loads(line) for line in found.block.splitlines())
            for line in lines:
                system, *said = line["conversations"]
                others = ({**turn, "value": _WORD.sub(other, turn["value"])} for turn in said)
                rows.append([Turn.model_validate(turn) for turn in (system, *others)])
        if len(rows) >= count:
            break
    return rows[:count]


def make_tokenizer() -> Any:
    """A fast byte-level tokenizer of Qwen's kind."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((turn.value for row in conversations(2000, seed=9) for turn in row), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=specials,
        chat_template=TEMPLATE,
    )


def datasets_map(rows: list[list[Turn]], tokenizer: Any, folder: Path) -> tuple[float, float, Any]:
    """Wall-clock seconds of `datasets.map` and of the same call again, which finds its cache; and the tokens.

    Over the better of one and two processes.
    """
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.ERROR)
    messages = datasets.Dataset.from_list([{"messages": to_messages(row)} for row in rows])

    def tokenize(example: dict[str, Any]) -> dict[str, Any]:
        found = tokenizer.apply_chat_template(example["messages"], return_dict=True, return_assistant_tokens_mask=True)
        return {"input_ids": found["input_ids"], "assistant_masks": found["assistant_masks"]}

    best, again, tokens = float("inf"), float("inf"), None
    for processes in (None, PROCESSES):
        # A folder of its own, since a dataset finds its cached results beside its files.
        place = str(folder / f"rows-{processes}")
        messages.save_to_disk(place)
        for run in range(2):
            spent, tokens = timed(partial(_mapped, place, tokenize, processes))
            best, again = (min(best, spent), again) if run == 0 else (best, min(again, spent))
    return best, again, tokens


def _mapped(place: str, tokenize: Callable[[dict[str, Any]], dict[str, Any]], processes: int | None) -> Any:
    import datasets

    rows = datasets.load_from_disk(place)
    return rows.map(tokenize, remove_columns=["messages"], num_proc=processes)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds of a call, and what it returns."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def tokenise(count: int, report: Report) -> None:
    """Rows per second by the wall clock, ids and masks being equal."""
    from sluice_trainer.token_cache import TokenCache

    rows, tokenizer = conversations(count, seed=3), make_tokenizer()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        folder = Path(name)
        theirs, theirs_again, tokens = datasets_map(rows, tokenizer, folder)
        cache = TokenCache(folder / "tokens")
        first, documents = timed(lambda: cache.documents("sha256:bench", tokenizer, lambda: rows))
        again, _ = timed(lambda: cache.documents("sha256:bench", tokenizer, lambda: rows))
        ids = np.concatenate([document.ids for document in documents])
        scored = np.concatenate([document.scored for document in documents])
        same = len(documents) == len(tokens)
        for column, found in (("input_ids", ids), ("assistant_masks", scored)):
            expected = np.fromiter(chain.from_iterable(tokens[column]), dtype=np.int64)
            same = same and np.array_equal(found.astype(np.int64), expected)
        if not same:
            raise SystemExit("the contenders disagree about tokens or masks: no rate is worth printing")
    report.title(f"tokenise + assistant mask, two cores, {count} rows of {len(ids) / count:.0f} tokens, wall clock")
    report.rate("datasets.map, 1 or 2 processes", count / theirs, "rows/s")
    report.rate("datasets.map, cached re-run", count / theirs_again, "rows/s")
    report.rate("sluice (one process)", count / first, "rows/s")
    report.rate("sluice, cached re-run", count / again, "rows/s")
    report.ratio("tokenise + mask against datasets.map", theirs / first, at_least=4)
    report.ratio("cached re-run against datasets.map", theirs / again, at_least=50)
    report.note(
        f"against their own cached re-run {theirs_again / again:.1f} x, against Sluice's first {first / again:.1f} x"
    )
