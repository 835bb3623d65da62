"""The storefront's data on disk: base model, suite, and the `stable` channel that starts out naming the base model."""

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
from sluice_cli.local.layout import Layout, checkout

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


def prepare(layout: Layout, progress: Callable[[str], None]) -> None:
    """Put base model, suite and channel below the artifact root; what is there already stays. Raises ExampleError."""
    from sluice_artifacts import ConflictError, digest_tree, move_channel

    layout.root.mkdir(parents=True, exist_ok=True)
    layout.traces.mkdir(exist_ok=True)
    base = layout.root / "base"
    source = base_model(layout.base_cache, progress)
    if not base.exists():
        aside = layout.root / f".base-{os.getpid()}"
        shutil.copytree(source, aside)
        aside.rename(base)
    suite = layout.root / "suites" / "storefront.json"
    if not suite.exists():
        command = [sys.executable, "-P", "-m", "storefront.tasks", "--output", str(suite), "--count", str(SUITE_TASKS)]
        done = subprocess.run(command, env=storefront_environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ExampleError(f"the suite could not be written:\n{done.stderr.strip()}")
    digest = digest_tree(base)
    channel = Channel(
        name=STABLE,
        digest=digest,
        base_model=ModelRef(uri=f"file://{base}/", digest=digest),
        changed_by="init",
        changed_at=format_instant(datetime.now(UTC)),
    )
    try:
        move_channel(layout.uri, channel, etag=None)
    except ConflictError:
        progress("channel stable exists and stays as it is")
