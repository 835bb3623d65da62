"""Long preparations say how far they are, and end where whoever hears of it asks them to."""

import hashlib
import json

import pytest

from sluice_traces.shards import Row, RowWriter, count_rows
from sluice_trainer.data import ROWS, TOLD_ROWS, check_rows
from sluice_trainer.documents import read_documents, read_pairs
from sluice_trainer.plan import TOLD_STEPS, DocumentSize, PlanConfig, build_plan
from sluice_trainer.screens import Screens
from tiny_models import preference_row, sft_row, tiny_tokenizer

DATASET = "sha256:" + 64 * "1"
MANY = 2 * TOLD_ROWS + 10
EXPECTED = [(TOLD_ROWS, MANY), (2 * TOLD_ROWS, MANY), (MANY, MANY)]


class AskedToStopError(Exception):
    """What a stop raises here."""


class Ear:
    """Hears how far the work is; asks it to end after so many reports."""

    def __init__(self, patience=10**9):
        self.heard = []
        self.patience = patience

    def __call__(self, done, of):
        self.heard.append((done, of))
        if len(self.heard) >= self.patience:
            raise AskedToStopError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Rows in a shard, pairs as lines with blank ones between."""
    folder = tmp_path_factory.mktemp("rows")
    with RowWriter(folder, "train", "sft") as writer:
        for number in range(MANY):
            writer.add(Row(line=json.dumps(sft_row(number)).encode(), trace="a"))
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(preference_row(number)) + "\n\n" for number in range(MANY)), encoding="utf-8")
    return {"sft": writer.paths, "dpo": [pairs]}


def test_rows_are_counted_before_they_are_read(files):
    assert count_rows(files["sft"]) == count_rows(files["dpo"]) == MANY
    assert count_rows([*files["sft"], *files["dpo"]]) == 2 * MANY


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_checking_rows_says_how_far_it_is(files, method):
    ear = Ear()
    check_rows(files[method], *ROWS[method], told=ear)
    assert ear.heard == EXPECTED
    twice = Ear()
    check_rows([*files[method], *files[method]], *ROWS[method], told=twice)
    assert twice.heard[-1] == (2 * MANY, 2 * MANY)


def test_tokenising_says_how_far_it_is_and_a_stop_leaves_nothing_half_done(files, tmp_path):
    tokenizer = tiny_tokenizer()
    with pytest.raises(AskedToStopError):
        read_documents(files["sft"], tokenizer, None, dataset=DATASET, cache=tmp_path, told=Ear(patience=2))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".sluice-lock-tokens"]
    ear = Ear()
    found = read_documents(files["sft"], tokenizer, None, dataset=DATASET, cache=tmp_path, told=ear)
    assert ear.heard == EXPECTED
    assert len(found) == MANY
    quiet = read_documents(files["sft"], tokenizer, None, dataset=DATASET, cache=tmp_path / "other")
    assert [each.fingerprint() for each in found] == [each.fingerprint() for each in quiet]


def test_pairs_say_how_far_they_are_and_end_when_asked(files):
    ear = Ear()
    pairs = read_pairs(files["dpo"], tiny_tokenizer(), None, told=ear)
    assert ear.heard == EXPECTED
    assert len(pairs) == MANY
    with pytest.raises(AskedToStopError):
        read_pairs(files["dpo"], tiny_tokenizer(), None, told=Ear(patience=1))


def test_planning_says_how_far_it_is_and_ends_when_asked():
    sizes = [DocumentSize(length=10, scored=1, fingerprint=hashlib.sha256(b"x").digest())] * 5 * TOLD_STEPS
    by_epochs = PlanConfig(tokens_per_step=20, epochs=1.0)
    by_steps = PlanConfig(tokens_per_step=20, max_steps=TOLD_STEPS + 1, epochs=float("inf"))
    ear, other = Ear(), Ear()
    assert build_plan(sizes, by_epochs, ear) == build_plan(sizes, by_epochs)
    assert ear.heard == [(2 * TOLD_STEPS, len(sizes)), (4 * TOLD_STEPS, len(sizes))]
    build_plan(sizes, by_steps, other)
    assert other.heard == [(TOLD_STEPS, TOLD_STEPS + 1)]
    with pytest.raises(AskedToStopError):
        build_plan(sizes, by_epochs, Ear(patience=1))


def test_fetching_screenshots_says_how_far_it_is_and_ends_when_asked(tmp_path):
    names, ear = [f"no screenshot {number}" for number in range(3)], Ear()
    Screens(f"file://{tmp_path}/version", tmp_path / "kept").fetch(names, ear)
    assert ear.heard == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(AskedToStopError):
        Screens(f"file://{tmp_path}/version", tmp_path / "kept").fetch(names, Ear(patience=2))
