"""Made-up traces of realistic shape: about seven steps and four kilobytes each, with the words that labels turn on."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WORDS = (
    *("listing", "seller", "price", "message", "gallery", "photo", "cart", "checkout", "address", "order", "button"),
    *("search", "filter", "result", "page", "scroll", "open", "close", "send", "reply", "next", "back", "menu"),
    *("account", "login", "basket", "delivery", "offer", "review", "rating", "category", "image", "detail"),
)
_DATA = ["ok"] * 6 + ["gate:PASS verified"] * 5 + ["miss: nothing at this place", "gate:FAIL leads away", "no change"]
_ESCALATIONS = ["page_blocked: forbidden", "cloudflare: proof asked", "rejected_incomplete: too short"]
_ACTIONS = ["click"] * 6 + ["type_text", "scroll", "key_press", "done"]


def made_up_traces(count: int, seed: int) -> Iterator[bytes]:
    """So many traces, each one JSON document without line breaks; 4 % of the runs escalate."""
    rng = random.Random(seed)
    for number in range(count):
        steps = [_step(rng, index) for index in range(rng.randrange(4, 11))]
        if rng.random() < 0.04:
            steps[-1] |= {"success": False, "data": rng.choice(_ESCALATIONS), "observed_outcome": ""}
        yield json.dumps(_trace(rng, number, steps)).encode()


def write_files(root: Path, count: int) -> None:
    """So many traces as files `<tenant>/<run>.json`."""
    for number, raw in enumerate(made_up_traces(count, seed=2)):
        folder = root / f"tenant-{number % 37}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"run-{number:08d}.json").write_bytes(raw)


def _trace(rng: random.Random, number: int, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema_version": 3,
        "run_id": f"run-{number:08d}",
        "tenant_id": f"tenant-{number % 37}",
        "session_name": f"session-{number}",
        "plan_signature": f"{rng.getrandbits(64):016x}",
        "variant": "candidate" if number % 20 == 0 else "baseline",
        "status": "completed",
        "started_at": f"2026-11-{1 + number % 28:02d}T{number % 24:02d}:{number % 60:02d}:00Z",
        "ended_at": f"2026-11-{1 + number % 28:02d}T{number % 24:02d}:{number % 60:02d}:42Z",
        "total_time_s": round(rng.uniform(5, 90), 3),
        "costs": {"gpu": 0.0112, "claude": 0.0, "proxy": 0.0004, "total": 0.0116},
        "step_count": len(steps),
        "steps": steps,
        "model_digest": f"sha256:{rng.getrandbits(256):064x}",
        "rollout": "",
    }


def _step(rng: random.Random, index: int) -> dict[str, Any]:
    data = rng.choice(_DATA)
    failed = data.startswith(("miss", "gate:FAIL"))
    intent = (
        f"{_text(rng, 5)}\nPage: {_text(rng, 6)}\n[1] {_text(rng, 2)} ({rng.randrange(1280)}, {rng.randrange(720)})"
    )
    return {
        "step_index": index,
        "intent": intent,
        "type": "act",
        "success": not failed,
        "data": data,
        "steps_used": 1,
        "duration": round(rng.uniform(0.1, 3), 3),
        "reversed": False,
        "last_action": _action(rng),
        "predicted_outcome": f"{_text(rng, 6).capitalize()}. {_text(rng, 5).capitalize()}.",
        "observed_outcome": "" if failed or rng.random() < 0.3 else _text(rng, 4),
        "reasoning": _text(rng, 12),
    }


def _action(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(_ACTIONS)
    params: dict[str, Any] = {
        "click": {"x": rng.randrange(1280), "y": rng.randrange(720)},
        "type_text": {"text": _text(rng, 3)},
        "scroll": {"direction": "down", "amount": 3},
        "key_press": {"keys": "enter"},
        "done": {"summary": _text(rng, 4)},
    }[kind]
    return {"action_type": kind, "params": params}


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))
