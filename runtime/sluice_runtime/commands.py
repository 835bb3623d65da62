"""`sluice serve`: the small model server on a port of its own."""

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

DEFAULT_PORT = 8000


def add_parser(subparsers: Any) -> None:
    """Adds `serve` to the command line."""
    parser = subparsers.add_parser(
        "serve",
        help="serve a base model and adapters, OpenAI-compatible",
        description="Serves a base model and LoRA adapters that are loaded by digest while it runs.",
    )
    parser.add_argument(
        "--base", required=True, metavar="URI", help="hf://owner/name, s3://bucket/prefix, file:///path"
    )
    parser.add_argument("--revision", default="", help="revision of a model on the hub")
    parser.add_argument("--digest", default=None, help="digest that the base model must have")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="file to write the port to once it listens")
    parser.add_argument("--cache", type=Path, help="folder for fetched models (default: the user's cache)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's choice)")
    parser.add_argument("--max-batch", type=int, default=64, help="requests of a batch at most")
    parser.add_argument("--max-wait-ms", type=float, default=4.0, help="milliseconds that a request waits for company")
    parser.add_argument("--json", action="store_true", help="say where it listens as JSON")
    parser.set_defaults(handler=serve)


def default_cache() -> Path:
    """The user's cache folder for models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / "models"


def serve(arguments: argparse.Namespace) -> int:
    """Handler of `sluice serve`: 0 after a signal to stop, 2 when the model cannot be served."""
    import asyncio

    from pydantic import ValidationError

    from sluice_artifacts import ArtifactError
    from sluice_runtime.errors import SluiceRuntimeError

    try:
        return asyncio.run(_serve(arguments))
    except ModuleNotFoundError as error:
        print(f"sluice serve: {error}; install sluice[runtime,trainer]", file=sys.stderr)
        return 2
    except (ArtifactError, SluiceRuntimeError, ValueError, ValidationError, OSError) as error:
        print(f"sluice serve: {error}", file=sys.stderr)
        return 2


async def _serve(arguments: argparse.Namespace) -> int:
    import asyncio

    from aiohttp import web

    from sluice_api.contracts.base import ModelRef
    from sluice_artifacts import digest_tree, fetch_model
    from sluice_runtime.batching import BatchConfig
    from sluice_runtime.engine import TextEngine
    from sluice_runtime.server import ModelServer

    batching = BatchConfig(max_batch=arguments.max_batch, max_wait_s=arguments.max_wait_ms / 1000)
    cache = arguments.cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    ref = ModelRef(uri=arguments.base, revision=arguments.revision, digest=arguments.digest)
    folder = await asyncio.to_thread(fetch_model, ref, cache)
    digest = await asyncio.to_thread(digest_tree, folder)
    engine = await asyncio.to_thread(lambda: TextEngine(folder, threads=arguments.threads))
    runner = web.AppRunner(
        ModelServer(engine, cache, base_digest=digest, batching=batching).application(), access_log=None
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, arguments.host, arguments.port)
        await site.start()
        port = int(runner.addresses[0][1])
        if arguments.port_file is not None:
            write_port(arguments.port_file, port)
        _announce(arguments, port, digest)
        await stop_signal()
    finally:
        await runner.cleanup()
    return 0


def _announce(arguments: argparse.Namespace, port: int, digest: str) -> None:
    url = f"http://{arguments.host}:{port}"
    if arguments.json:
        print(json.dumps({"url": url, "port": port, "base_digest": digest}), flush=True)
    else:
        print(f"serving {arguments.base} ({digest}) at {url}; Ctrl-C ends it", flush=True)


def write_port(path: Path, port: int) -> None:
    """Writes a port to a file that appears whole."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(f"{port}\n")
    Path(file.name).replace(path)


async def stop_signal() -> None:
    """Waits for SIGINT or SIGTERM."""
    import asyncio

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    await stop.wait()
