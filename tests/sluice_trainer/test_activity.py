"""Folders that change while they are looked at, as downloads change them."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice_trainer import activity


def test_a_folder_that_vanishes_during_a_look_counts_as_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone", "stays"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"12")
    (tmp_path / "stays" / "nowhere").symlink_to(tmp_path / "absent")
    scandir = os.scandir

    def vanishing(path: Any) -> Any:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert activity._size(tmp_path) == (1, 2)


def test_a_look_that_fails_ends_neither_the_looks_nor_the_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks() -> Iterator[tuple[int, int]]:
        yield 1, 1
        raise PermissionError

    first, size, grew = looks(), activity._size, threading.Event()

    def failing_once(folder: Path) -> tuple[int, int]:
        found = next(first, None)
        return size(folder) if found is None else found

    monkeypatch.setattr(activity, "_size", failing_once)
    with activity.watched(tmp_path, grew.set, every=0.01):
        assert grew.wait(30)
