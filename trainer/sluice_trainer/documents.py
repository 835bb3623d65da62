"""The rows of a job as what is packed: documents, or preference pairs, with pictures where the base model sees."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.data import ROWS, Row, Told, place_of, stream_rows, text_only_objection
from sluice_trainer.dpo import Pair, tokenize_pairs
from sluice_trainer.token_cache import TokenCache
from sluice_trainer.tokenise import ConversationError, Document, numbered
from sluice_trainer.vision import Eyes, SeeingTokeniser


def read_documents(
    files: Sequence[Path],
    tokenizer: Any,
    eyes: Eyes | None,
    *,
    dataset: str,
    cache: Path,
    told: Told | None = None,
) -> Sequence[Document]:
    """Documents of supervised rows, in the rows' order.

    Args:
        files: the dataset's files.
        tokenizer: a transformers tokenizer with a chat template.
        eyes: the base model's; None where it reads text only, whose tokens are kept in the cache.
        dataset: its digest.
        cache: folder for what is kept between attempts.
        told: hears how many rows, or screenshots, of how many are done, of one kind of work after the other. It may
            raise, to have it end: nothing half-done is kept.

    Raises:
        WorkerError: `Data`, naming file and row, for a row that must not be learnt or whose screenshot is missing,
            damaged or undecodable; `UserError` for a tokenizer that cannot be used.
        ArtifactError: the storage cannot be asked for screenshots.
    """
    model, check = ROWS["sft"]
    with _placed(files):
        if eyes is None:
            plain = _with(check, text_only_objection)
            return TokenCache(cache / "tokens").documents(
                dataset, tokenizer, lambda: (row.conversations for row in stream_rows(files, model, plain, told))
            )
        seeing = SeeingTokeniser(tokenizer, eyes)
        documents = []
        for number, row in enumerate(_with_screens(files, model, _with(check, eyes.objection), eyes, told)):
            with numbered(number):
                documents.append(seeing.document(row.conversations, row.image))
        return documents


def read_pairs(files: Sequence[Path], tokenizer: Any, eyes: Eyes | None, *, told: Told | None = None) -> list[Pair]:
    """Preference pairs of rows, in the rows' order; arguments and errors as of `read_documents`."""
    model, check = ROWS["dpo"]
    with _placed(files):
        if eyes is None:
            return tokenize_pairs(stream_rows(files, model, _with(check, text_only_objection), told), tokenizer)
        return tokenize_pairs(_with_screens(files, model, _with(check, eyes.objection), eyes, told), tokenizer, eyes)


@contextmanager
def _placed(files: Sequence[Path]) -> Iterator[None]:
    """Name file and row of a conversation that cannot be made into tokens."""
    try:
        yield
    except ConversationError as error:
        raise WorkerError(error.failure_class, f"{place_of(files, error.number)}: {error.message}") from error


def _with(first: Callable[[Any], str], second: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda row: first(row) or second(row)


def _with_screens(
    files: Sequence[Path], model: type[Row], check: Callable[[Row], str], eyes: Eyes, told: Told | None
) -> Iterator[Row]:
    """Rows once their screenshots are fetched, several at a time, rather than one after the other."""

    def images() -> Iterator[str]:
        for row in stream_rows(files, model, lambda row: "", told):
            assert isinstance(row, SftRow | PreferenceRow)
            if row.image is not None:
                yield row.image

    eyes.screens.fetch(images(), told)
    yield from stream_rows(files, model, check, told)
