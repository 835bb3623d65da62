"""Judged tasks on disk: a run that was killed goes on where it was, and a repeated one is answered from here.

A key covers everything that decides an outcome: the weights' digest, the task with its prompt and limits, the protocol
with its sampling, the harness, and the repeat. Tasks that could not be judged are never kept.
"""

import asyncio
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from sluice_api.contracts.evaluation import EvalTask, TaskResult
from sluice_artifacts import ArtifactError, Store, canonical_json, digest_bytes, join

_log = logging.getLogger(__name__)


def result_key(*, target: str, protocol: str, harness_digest: str, task: EvalTask, repeat: int) -> str:
    """Digest what decides an outcome."""
    return digest_bytes(
        canonical_json(
            {
                "target": target,
                "protocol": protocol,
                "harness": harness_digest,
                "task": task.model_dump(mode="json", exclude_defaults=True),
                "repeat": repeat,
            }
        )
    )


class Journal(Protocol):
    """Judged tasks by key."""

    def get(self, key: str) -> TaskResult | None:
        """Give the result under a key, if there is one."""
        ...

    async def put(self, key: str, result: TaskResult) -> None:
        """Keep a result; once this returns, no crash can lose it."""
        ...


class NoJournal:
    """Keeps nothing."""

    def get(self, key: str) -> TaskResult | None:
        """Give None."""
        return None

    async def put(self, key: str, result: TaskResult) -> None:
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

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self._results)

    def get(self, key: str) -> TaskResult | None:
        """Give the result under a key, if there is one."""
        return self._results.get(key)

    async def put(self, key: str, result: TaskResult) -> None:
        """Append a result and wait until it is on the disk; other tasks go on meanwhile."""
        self._results[key] = result
        line = json.dumps({"key": key, "result": result.model_dump(mode="json")}, ensure_ascii=False)
        # one write a line, so that results that end together do not mix
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        await asyncio.to_thread(os.fdatasync, self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StoreJournal:
    """One object a result below a run-scoped prefix: every attempt of a job goes on where the last one was killed.

    A task is done once its result is written; a crash repeats the few that were still on their way.
    """

    def __init__(self, store: Store, prefix: str, *, writers: int = 8) -> None:
        """Load what earlier attempts have judged; objects that cannot be read cost one repetition of their task.

        Raises:
            ArtifactError: the prefix cannot be listed.
        """
        self._store = store
        self._prefix = prefix
        self._pool = ThreadPoolExecutor(max_workers=writers, thread_name_prefix="journal")
        uris = [info.uri for info in store.list(prefix) if info.uri.endswith(".json")]
        loaded = self._pool.map(self._load, uris)
        self._results = {key: result for key, result in loaded if result is not None}

    def _uri(self, key: str) -> str:
        return join(self._prefix, key.removeprefix("sha256:") + ".json")

    def _load(self, uri: str) -> tuple[str, TaskResult | None]:
        key = "sha256:" + uri.rsplit("/", 1)[-1].removesuffix(".json")
        try:
            return key, TaskResult.model_validate_json(self._store.read(uri))
        except (ArtifactError, ValidationError):
            return key, None

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self._results)

    def get(self, key: str) -> TaskResult | None:
        """Give the result under a key, if there is one."""
        return self._results.get(key)

    async def put(self, key: str, result: TaskResult) -> None:
        """Write a result and wait until it is there; other tasks go on meanwhile.

        One that cannot be written is not lost for this run, only for a later attempt.
        """
        self._results[key] = result
        await asyncio.get_running_loop().run_in_executor(self._pool, self._write, key, result)

    def _write(self, key: str, result: TaskResult) -> None:
        try:
            self._store.write(self._uri(key), canonical_json(result))
        except ArtifactError as error:
            _log.warning("a judged task was not kept, a later attempt will run it again: %s", error)

    def close(self) -> None:
        """Wait until everything is written."""
        self._pool.shutdown(wait=True)
