"""The storefront's data: base model, suite, and the `stable` channel that starts out naming the base model."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.models import Channel
from sluice_api.instants import format_instant
from sluice_artifacts import ConflictError, digest_tree, join, move_channel, open_store, read_channel
from sluice_cli.local.layout import checkout
from sluice_devcluster.files import cache_home

SUITE_TASKS = 200
"""Tasks of the evaluation: a 95 % interval of about seven points either side."""
STABLE = "stable"
"""Channel that serves production."""


class ExampleError(RuntimeError):
    """Example data could not be made; the message ends with the program's output."""


def storefront_environment() -> dict[str, str]:
    """Return the environment in which the package `storefront` is importable."""
    return {**os.environ, "PYTHONPATH": str(checkout() / "examples"), "PYTHONUNBUFFERED": "1"}


def recipe_digest() -> str:
    """Return a short hash of the code that makes the base model: a change of it makes another model."""
    digest = hashlib.sha256()
    for path in sorted((checkout() / "examples" / "storefront").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for name in ("actions.py", "chat.py"):
        digest.update((checkout() / "crds" / "sluice_api" / name).read_bytes())
    return digest.hexdigest()[:12]


def base_model(cache: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder of the base model, training it once for each state of its code (under a minute).

    `progress` gets the trainer's lines. Raises ExampleError.
    """
    target = cache / recipe_digest()
    if (target / "config.json").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".base-", dir=cache))
    command = [sys.executable, "-P", "-m", "storefront.base_model", "--output", str(aside)]
    lines: list[str] = []
    with subprocess.Popen(
        command, env=storefront_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                progress(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        shutil.rmtree(aside, ignore_errors=True)
        raise ExampleError("the base model could not be trained:\n" + "\n".join(lines[-20:]))
    try:
        aside.rename(target)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not (target / "config.json").is_file():
            raise
    return target


def furnish(root: str, progress: Callable[[str], None], *, tasks: int = SUITE_TASKS) -> ModelRef:
    """Put base model, suite and the channel `stable` below an artifact root, and return the base model.

    What is there already stays: the channel comes last, so where it is, the model it names is whole.

    Args:
        root: artifact root, `file://…/` or `s3://…/`.
        progress: gets a line of news now and then.
        tasks: length of the suite.

    Raises:
        ArtifactError: the storage refuses.
        ExampleError: model or suite could not be made.
    """
    store = open_store(root)
    suite = join(root, "suites", "storefront.json")
    if not store.exists(suite):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "storefront.json"
            run_storefront("tasks", "--output", str(path), "--count", str(tasks))
            store.upload(path, suite)
    known = read_channel(root, STABLE)
    if known is not None:
        progress(f"channel {STABLE} exists and stays as it is")
        return known[0].base_model
    folder = base_model(cache_home() / "storefront", progress)
    base = ModelRef(uri=join(root, "base") + "/", digest=digest_tree(folder))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.upload(path, join(base.uri, path.relative_to(folder).as_posix()))
    channel = Channel(
        name=STABLE,
        digest=base.digest,
        base_model=base,
        changed_by="furnish",
        changed_at=format_instant(datetime.now(UTC)),
    )
    # Another one that furnishes the same root may have been faster.
    with contextlib.suppress(ConflictError):
        move_channel(root, channel, etag=None)
    return base


def run_storefront(module: str, *arguments: str) -> str:
    """Run a program of the storefront to its end and return what it printed. Raises ExampleError."""
    command = [sys.executable, "-P", "-m", f"storefront.{module}", *arguments]
    done = subprocess.run(command, env=storefront_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise ExampleError(f"storefront.{module} ended with {done.returncode}:\n{said}")
    return done.stdout
