"""Made-up traces of realistic shape, deterministic by their arguments."""

import json
from pathlib import Path
from typing import Any

from sluice_api.contracts.jobs import LabelJob

CLICK = {"action_type": "click", "params": {"x": 10, "y": 20}}


def step(index: int, **fields: Any) -> dict[str, Any]:
    """A step that passed its gate, unless fields say otherwise."""
    return {
        "step_index": index,
        "intent": f"open listing {index}",
        "type": "act",
        "success": True,
        "data": "gate:PASS listing open",
        "steps_used": 1,
        "duration": 0.5,
        "reversed": False,
        "last_action": CLICK,
        "predicted_outcome": "The listing opens. It shows a price. And more.",
        "observed_outcome": "listing opened",
        "reasoning": "it is the third one",
        **fields,
    }


def trace(
    run_id: str = "run-1", tenant: str = "acme", steps: list[dict[str, Any]] | None = None, **fields: Any
) -> dict[str, Any]:
    """A completed run of schema version 3."""
    listed = [step(0), step(1)] if steps is None else steps
    return {
        "schema_version": 3,
        "run_id": run_id,
        "tenant_id": tenant,
        "session_name": "session",
        "plan_signature": "plan",
        "variant": "baseline",
        "status": "completed",
        "started_at": "2026-11-01T10:00:00Z",
        "ended_at": "2026-11-01T10:01:00Z",
        "total_time_s": 60.0,
        "costs": {"gpu": 0.01, "claude": 0.0, "proxy": 0.001, "total": 0.011},
        "step_count": len(listed),
        "steps": listed,
        "model_digest": "sha256:" + "0" * 64,
        "rollout": "",
        **fields,
    }


def write_trace(root: Path, document: dict[str, Any], *, screens: bool = False) -> Path:
    """Write a trace where the exporter would, with a picture a step where asked."""
    folder = root / (document["tenant_id"] or "__shared__")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['run_id']}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    if screens:
        pictures = folder / f"{document['run_id']}_screens"
        pictures.mkdir(exist_ok=True)
        for each in document["steps"]:
            (pictures / f"{each['step_index']:04d}.png").write_bytes(PNG)
    return path


def many(root: Path, runs: int, *, tenants: int = 2, start_day: int = 1) -> None:
    """Runs that start one a minute, over several tenants; every third step of a run is an escalation."""
    for number in range(runs):
        steps = [step(0), step(1, data="ok"), step(2, data="page_blocked: no", success=True)]
        started = f"2026-11-{start_day:02d}T{number // 60:02d}:{number % 60:02d}:00Z"
        write_trace(root, trace(f"run-{number:03d}", f"tenant-{number % tenants}", steps, started_at=started))


def label_job(source: Path | str, output: Path, **fields: Any) -> LabelJob:
    """A job for text-only traces, as the operator writes it."""
    source_uri = source if isinstance(source, str) else source.as_uri() + "/"
    return LabelJob.model_validate(
        {
            "run": {"kind": "TraceDataset", "namespace": "default", "name": "d", "uid": "u"},
            "attempt": 1,
            "output_uri": (output / "attempts" / "1").as_uri() + "/",
            "source_uri": source_uri,
            "dataset_uri": (output / "datasets").as_uri() + "/",
            "require_screenshot": False,
            **fields,
        }
    )


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000b49444154789c6360000200000500017a5eab3f0000000049454e44ae426082"
)
"""The smallest picture there is: one transparent pixel."""
