"""Reference values are kept once computed, and trusted while they are what they say; loading shows that it goes on."""

import threading
from pathlib import Path

import pytest
import torch

from sluice_api.contracts.dataset import PreferenceRow
from sluice_trainer.activity import watched
from sluice_trainer.dpo import Pair, tokenize_pairs
from sluice_trainer.group import Alone
from sluice_trainer.reference import ReferenceStore, reference_key, reference_of
from tiny_models import preference_row, tiny_tokenizer

CPU = torch.device("cpu")
VALUES = torch.tensor([[-1.5, -2.25], [-0.1, -7.0], [0.0, 0.0]])
ORIGIN = {"base": "sha256:b", "parent": "", "row_tokens": 300, "device": "cpu"}


def pairs() -> list[Pair]:
    return tokenize_pairs(
        [PreferenceRow.model_validate(preference_row(number)) for number in range(3)], tiny_tokenizer()
    )


class Counted:
    """Computes, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> torch.Tensor:
        self.times += 1
        return VALUES.clone()


def take(folder: Path, key: str, compute: Counted) -> torch.Tensor:
    return reference_of(ReferenceStore(f"file://{folder}", key, 3), 3, Alone(), CPU, compute)


def test_values_are_computed_once_for_all_attempts(tmp_path: Path) -> None:
    compute, key = Counted(), reference_key(pairs(), **ORIGIN)
    for _ in range(3):
        assert torch.equal(take(tmp_path, key, compute), VALUES)
    assert compute.times == 1


@pytest.mark.parametrize(
    "change", [{"base": "sha256:c"}, {"parent": "sha256:p"}, {"row_tokens": 301}, {"device": "cuda"}]
)
def test_other_values_have_another_name(tmp_path: Path, change: dict[str, object]) -> None:
    compute = Counted()
    take(tmp_path, reference_key(pairs(), **ORIGIN), compute)
    take(tmp_path, reference_key(pairs(), **(ORIGIN | change)), compute)
    take(tmp_path, reference_key(pairs()[::-1], **ORIGIN), compute)
    assert compute.times == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "of another key"])
def test_what_is_damaged_is_computed_again_and_written_again(tmp_path: Path, damage: str) -> None:
    compute, key = Counted(), reference_key(pairs(), **ORIGIN)
    take(tmp_path, key, compute)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    changed = {
        "cut": data[:-3],
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "emptied": b"",
        "of another key": data.replace(key.encode(), key.replace(key[-1], "0" if key[-1] != "0" else "1").encode()),
    }
    path.write_bytes(changed[damage])
    for _ in range(2):
        assert torch.equal(take(tmp_path, key, compute), VALUES)
    assert compute.times == 2


def test_a_download_reports_while_its_folder_grows_and_no_longer(tmp_path: Path) -> None:
    grew = threading.Event()
    with watched(tmp_path / "cache", grew.set, every=0.01):
        assert not grew.wait(0.1)
        (tmp_path / "cache" / "models").mkdir(parents=True)
        (tmp_path / "cache" / "models" / "part").write_bytes(b"1")
        assert grew.wait(30)
        with (tmp_path / "cache" / "models" / "part").open("ab") as stream:
            grew.clear()
            stream.write(b"2")
            stream.flush()
            assert grew.wait(30)
