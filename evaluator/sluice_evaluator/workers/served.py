"""A model server for the time of an evaluation: `sluice serve` on loopback, one process a base model."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import EvalTarget, FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_evaluator.protocols import ask_once

START_LIMIT_S = 600.0
"""Seconds for a server to load its base model; weights may have to be fetched first."""
CACHE_VARIABLE = "SLUICE_MODEL_CACHE"
"""Environment variable with a folder that keeps base models between jobs."""
BASE_MODEL_NAME = "base"
"""Name of the bare base model on the server."""


def serve_command(base: ModelRef, port_file: Path, cache: Path) -> list[str]:
    """Build the command that serves a base model on a free port of loopback."""
    command = [sys.executable, "-m", "sluice_cli", "serve", "--base", base.uri, "--host", "127.0.0.1", "--port", "0"]
    command += ["--port-file", str(port_file), "--cache", str(cache)]
    return [*command, "--revision", base.revision] if base.revision else command


def _wait_for_port(process: "subprocess.Popen[bytes]", port_file: Path, log: Path, limit_s: float) -> str:
    """Wait until the server has written its port and answers.

    Raises:
        WorkerError: it ended, or took too long.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            last = lines[-1][:300] if lines else "nothing"
            raise WorkerError(
                FailureClass.INFRASTRUCTURE,
                f"the model server ended with status {process.returncode} before it served; its last words: {last}",
            )
        if port_file.exists() and (text := port_file.read_text().strip()):
            url = f"http://127.0.0.1:{int(text)}"
            try:
                if ask_once(f"{url}/healthz", timeout_s=2.0)[0] == 200:
                    return url
            except OSError:
                pass  # not listening yet: the loop's deadline decides
        time.sleep(0.1)
    raise WorkerError(FailureClass.INFRASTRUCTURE, f"the model server did not serve within {limit_s:.0f} s")


@contextmanager
def serve_base(base: ModelRef, *, limit_s: float = START_LIMIT_S) -> Iterator[str]:
    """Serve a base model while the block runs; yields the server's URL."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-serve-")))
        cache = Path(os.environ.get(CACHE_VARIABLE) or folder / "cache")
        log, port_file = folder / "server.log", folder / "port"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                serve_command(base, port_file, cache), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        stack.callback(_stop, process)
        yield _wait_for_port(process, port_file, log, limit_s)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def load_adapter(url: str, target: EvalTarget) -> str:
    """Load a target's adapter into a server and give the name of the model; the bare base needs none.

    Raises:
        WorkerError: the server refused it.
    """
    if target.adapter is None:
        return BASE_MODEL_NAME
    name = target.adapter.digest
    try:
        status, text = ask_once(
            f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": target.adapter.uri}, timeout_s=300.0
        )
    except OSError as error:
        raise WorkerError(
            FailureClass.INFRASTRUCTURE, f"the model server did not load the adapter: {type(error).__name__}"
        ) from error
    if status != 200:
        failure = FailureClass.DATA if status == 400 else FailureClass.INFRASTRUCTURE
        raise WorkerError(failure, f"the model server refused adapter {name}: {text[:300]}")
    return name


@contextmanager
def serve_targets(
    targets: Sequence[EvalTarget], *, limit_s: float = START_LIMIT_S
) -> Iterator[dict[int, tuple[str, str]]]:
    """Serve targets while the block runs, those of one base together.

    Yields:
        URL and model name by the position of the target.
    """
    with ExitStack() as stack:
        servers: dict[str, str] = {}
        served: dict[int, tuple[str, str]] = {}
        for position, target in enumerate(targets):
            if target.base_model is None:
                raise WorkerError(
                    FailureClass.USER_ERROR,
                    f"target {target.name} has neither weights nor an endpoint, and the job names no agent",
                )
            key = json.dumps(target.base_model.model_dump(mode="json"), sort_keys=True)
            if key not in servers:
                servers[key] = stack.enter_context(serve_base(target.base_model, limit_s=limit_s))
            served[position] = (servers[key], load_adapter(servers[key], target))
        yield served
