"""`sluice serve`."""

import argparse
import sys
from pathlib import Path
from typing import Any

EXIT_FAILED = 1
EXIT_UNUSABLE = 2


def add_parser(subparsers: Any) -> None:
    """Add `sluice serve`."""
    parser = subparsers.add_parser(
        "serve",
        help="serve a base model and adapters, OpenAI-compatible",
        description="Serves POST /v1/chat/completions for a base model (`base`) and for adapters by digest, which "
        "POST /v1/load_lora_adapter brings in.",
    )
    parser.add_argument("--base", required=True, metavar="URI", help="hf://, s3:// or file:// model, or a folder")
    parser.add_argument("--revision", default="", help="revision of an hf:// model")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--port-file", type=Path, help="file that gets the port once it is bound")
    parser.add_argument("--cache", type=Path, help="folder that keeps fetched models and adapters")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--max-batch", type=int, default=32, help="requests answered together (default: %(default)s)")
    parser.set_defaults(handler=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C (0); 1 when the model does not load or the port is taken; 2 for a bad flag."""
    import asyncio
    import signal

    from sluice_api.contracts.base import ModelRef
    from sluice_artifacts import ArtifactError, fetch_model
    from sluice_runtime.batching import BatchingConfig
    from sluice_runtime.errors import ModelLoadError
    from sluice_runtime.server import ServeConfig, serve

    uri = arguments.base if "://" in arguments.base else Path(arguments.base).resolve().as_uri()
    cache = arguments.cache or Path("~/.cache/sluice/models").expanduser()

    async def run(config: ServeConfig) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(config, stop)

    try:
        batching = BatchingConfig(max_batch=arguments.max_batch)
    except ValueError as error:
        print(f"sluice serve: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    try:
        base = fetch_model(ModelRef(uri=uri, revision=arguments.revision), cache)
        config = ServeConfig(
            base=base,
            host=arguments.host,
            port=arguments.port,
            port_file=arguments.port_file,
            cache=arguments.cache,
            threads=arguments.threads,
            batching=batching,
        )
        asyncio.run(run(config))
    except (ArtifactError, ModelLoadError, OSError) as error:
        print(f"sluice serve: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0
