"""Documents of rows without a dataset around them."""

from collections.abc import Sequence
from typing import Any

from sluice_api.contracts.dataset import SftRow
from sluice_trainer.tokenise import Document, Documents, Tokeniser, join_batches


def tokenize_rows(rows: Sequence[SftRow], tokenizer: Any) -> list[Document]:
    """Documents of supervised rows, in the rows' order, as a run makes them."""
    return list(Documents(join_batches(Tokeniser(tokenizer).encode(row.conversations for row in rows))))
