"""Judged tasks on disk: a run that was killed goes on where it was, and a repeated one is answered from here.

A key covers everything that decides an outcome: the weights' digest, the task with its prompt and limits, the protocol
with its sampling, the harness, and the repeat. Tasks that could not be judged are never kept.
"""

import json
import os
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from sluice_api.contracts.evaluation import EvalTask, TaskResult
from sluice_artifacts import canonical_json, digest_bytes


def result_key(*, target: str, protocol: str, harness_digest: str, task: EvalTask, repeat: int) -> str:
    """Digest what decides an outcome."""
    return digest_bytes(
        canonical_json(
            {
                "target": target,
                "protocol": protocol,
                "harness": harness_digest,
                "task": task.model_dump(mode="json"),
                "repeat": repeat,
            }
        )
    )


class Journal(Protocol):
    """Judged tasks by key."""

    def get(self, key: str) -> TaskResult | None:
        """Give the result under a key, if there is one."""
        ...

    def put(self, key: str, result: TaskResult) -> None:
        """Keep a result."""
        ...


class NoJournal:
    """Keeps nothing."""

    def get(self, key: str) -> TaskResult | None:
        """Give None."""
        return None

    def put(self, key: str, result: TaskResult) -> None:
        """Do nothing."""


class FileJournal:
    """One JSON line a result, appended and synced before the next task can depend on it.

    A line that a crash has cut short is ignored, and cut off before anything is appended after it.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal, or begin one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._results: dict[str, TaskResult] = {}
        end = self._load(path.read_bytes()) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(end)

    def _load(self, data: bytes) -> int:
        """Read whole lines; return where the last of them ends."""
        end = 0
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                entry = json.loads(line)
                self._results[entry["key"]] = TaskResult.model_validate(entry["result"])
            except (ValueError, KeyError, TypeError, ValidationError):
                continue  # a damaged line costs one repetition of its task, no more
        return end

    def __len__(self) -> int:
        """Count the results."""
        return len(self._results)

    def get(self, key: str) -> TaskResult | None:
        """Give the result under a key, if there is one."""
        return self._results.get(key)

    def put(self, key: str, result: TaskResult) -> None:
        """Append a result."""
        self._results[key] = result
        line = json.dumps({"key": key, "result": result.model_dump(mode="json")}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
