"""A stand-in for `sluice serve` as a process: the same routes, and a model that is a rule.

`python chat_server.py --base URI --host H --port 0 --port-file F --cache DIR`. The base answers nothing to tasks with
the word `hard`; an adapter answers everything. `--base file:///broken` ends before it serves.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from aiohttp import web

ADAPTERS: set[str] = set()


async def _chat(request: web.Request) -> web.Response:
    body = await request.json()
    if body["model"] != "base" and body["model"] not in ADAPTERS:
        return web.json_response({"error": "no such model"}, status=404)
    text = body["messages"][-1]["content"]
    answer = "" if body["model"] == "base" and "hard" in text else f"answer to {text}"
    choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    return web.json_response({"choices": [choice]})


async def _load(request: web.Request) -> web.Response:
    body = await request.json()
    if "corrupt" in body["lora_path"]:
        return web.json_response({"error": "the digest does not verify"}, status=400)
    ADAPTERS.add(body["lora_name"])
    return web.json_response({})


async def _healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _serve(port_file: Path) -> None:
    app = web.Application()
    app.router.add_get("/healthz", _healthz)
    app.router.add_post("/v1/load_lora_adapter", _load)
    app.router.add_post("/v1/chat/completions", _chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await asyncio.to_thread(port_file.write_text, str(runner.addresses[0][1]))
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--base", "--host", "--port", "--port-file", "--cache", "--revision"):
        parser.add_argument(flag)
    args = parser.parse_args()
    if "broken" in args.base:
        print("the base model has no config.json", file=sys.stderr)
        sys.exit(4)
    asyncio.run(_serve(Path(args.port_file)))


if __name__ == "__main__":
    main()
