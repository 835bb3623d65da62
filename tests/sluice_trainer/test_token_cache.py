"""Tokenised datasets on disk: found again, checked, and whole whoever writes them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sluice_api.contracts.dataset import Turn
from sluice_trainer import token_cache
from sluice_trainer.token_cache import TokenCache, cache_key, read_tokens, write_tokens
from sluice_trainer.tokenise import Tokeniser
from tokenisers import family_tokenizer

DATASET = "sha256:" + "1" * 64
CHATS = [
    [
        Turn.model_validate({"from": "human", "value": f"open listing {number}"}),
        Turn.model_validate({"from": "gpt", "value": f"It opens.\nclick({number}, 7)"}),
    ]
    for number in range(1100)
]


def never():
    raise AssertionError("the rows were read again")


def the_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.fingerprint() == theirs.fingerprint()


@pytest.fixture
def tokenizer():
    return family_tokenizer("qwen")


def test_a_second_run_reads_no_rows_and_gives_the_same_documents(tmp_path, tokenizer):
    cache = TokenCache(tmp_path / "tokens")
    first = cache.documents(DATASET, tokenizer, lambda: CHATS)
    again = cache.documents(DATASET, tokenizer, never)
    the_same(again, first)
    assert [document.length for document in again[3:5]] == [first[3].length, first[4].length]
    assert again[-1].ids.dtype == np.int64
    assert again[-1].scored.dtype == np.bool_
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".tokens"]


def test_another_dataset_template_or_tokenizer_is_another_file(tokenizer):
    keys = {cache_key(DATASET, tokenizer), cache_key(DATASET + "2", tokenizer)}
    keys |= {cache_key(DATASET, family_tokenizer("llama"))}
    original = tokenizer.chat_template
    try:
        tokenizer.chat_template = original + " "
        keys |= {cache_key(DATASET, tokenizer)}
    finally:
        tokenizer.chat_template = original
    assert len(keys) == 4
    assert cache_key(DATASET, tokenizer) in keys


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no header", "more", "other format"])
def test_a_damaged_file_is_written_again(tmp_path, tokenizer, damage, monkeypatch, caplog):
    cache = TokenCache(tmp_path)
    first = list(cache.documents(DATASET, tokenizer, lambda: CHATS))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 1
    damaged = {
        "cut": whole[:-1],
        "flipped": bytes(flipped),
        "empty": b"",
        "no header": whole[whole.index(b"\n") + 1 :],
        "more": whole + b"\0",
        "other format": whole.replace(b'"format": 1', b'"format": 0', 1),
    }
    path.write_bytes(damaged[damage])
    assert read_tokens(path) is None
    the_same(cache.documents(DATASET, tokenizer, lambda: CHATS), first)
    assert path.read_bytes() == whole
    assert "tokenising again" in caplog.text


def test_a_writer_that_dies_leaves_nothing(tmp_path, tokenizer):
    def dying():
        yield from Tokeniser(tokenizer).encode(CHATS[:600])
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_tokens(tmp_path / "x.tokens", dying())
    assert list(tmp_path.iterdir()) == []


def test_many_writers_of_one_file_leave_it_whole(tmp_path, tokenizer):
    alone = TokenCache(tmp_path / "alone").documents(DATASET, tokenizer, lambda: CHATS)
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(TokenCache(tmp_path / "shared").documents, DATASET, tokenizer, lambda: CHATS) for _ in range(8)
        ]
        for job in jobs:
            the_same(job.result(), alone)
    assert len(list((tmp_path / "shared").iterdir())) == 1


def test_no_conversations_are_no_documents(tmp_path, tokenizer):
    cache = TokenCache(tmp_path)
    assert list(cache.documents(DATASET, tokenizer, list)) == []
    assert list(cache.documents(DATASET, tokenizer, never)) == []


def test_a_disk_that_loses_what_was_written_is_named(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(token_cache, "read_tokens", lambda path: None)
    with pytest.raises(OSError, match="cannot be read back"):
        TokenCache(tmp_path).documents(DATASET, tokenizer, lambda: CHATS[:3])


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    script = (
        "import os, pathlib, signal, sys\nfrom sluice_trainer.token_cache import write_tokens\n"
        "def killed():\n    os.kill(os.getpid(), signal.SIGKILL)\n    yield\n"
        "write_tokens(pathlib.Path(sys.argv[1]) / 'x.tokens', killed())\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    (left,) = tmp_path.glob(".tokens-*")

    def others_write_meanwhile():
        (mine,) = tmp_path.glob(".tokens-*")
        assert mine != left
        write_tokens(tmp_path / "other.tokens", [])
        assert mine.is_dir()
        yield from ()

    write_tokens(tmp_path / "x.tokens", others_write_meanwhile())
    assert {path.name for path in tmp_path.iterdir()} == {"x.tokens", "other.tokens"}
