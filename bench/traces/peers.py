"""The pipelines that one would write first: a JSON library, a loop over dictionaries, one line of JSON a row."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sluice_api.actions import format_action
from sluice_api.chat import SYSTEM_PROMPT, render_assistant, render_user

_ESCALATION = re.compile("cloudflare|page_blocked|rejected_incomplete|antibot|page_exhausted|scan_error")


Loads = Callable[[bytes], Any]
Dumps = Callable[[Any], bytes]


def plain_pipeline(documents: Iterable[bytes], loads: Loads, dumps: Dumps) -> Iterator[bytes]:
    """Label and convert with a given JSON library; yields the rows."""
    for raw in documents:
        trace = loads(raw)
        for step in trace["steps"]:
            label, reason = _judge(step)
            row = _row(trace, step, label, reason)
            if row is not None:
                yield dumps(row)


def label_then_convert(root: Path, loads: Loads, dumps: Dumps) -> None:
    """The same in two scripts: `traces/` to `labelled/`, a file each, and that to `rows.jsonl`."""
    for path in sorted((root / "traces").rglob("*.json")):
        trace = loads(path.read_bytes())
        summary = {"positive": 0, "negative": 0, "neutral": 0}
        for step in trace["steps"]:
            step["label"], step["label_reason"] = _judge(step)
            summary[step["label"]] += 1
        trace |= {"source_path": str(path), "label_summary": summary, "review_status": "pending"}
        target = root / "labelled" / path.relative_to(root / "traces")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        temporary.write_bytes(dumps(trace))
        temporary.replace(target)
    with (root / "rows.jsonl.tmp").open("wb") as out:
        for path in sorted((root / "labelled").rglob("*.json")):
            trace = loads(path.read_bytes())
            for step in trace["steps"]:
                row = _row(trace, step, step["label"], step["label_reason"])
                if row is not None:
                    out.write(dumps(row) + b"\n")
    (root / "rows.jsonl.tmp").replace(root / "rows.jsonl")


def _row(trace: dict[str, Any], step: dict[str, Any], label: str, reason: str) -> dict[str, Any] | None:
    action = step.get("last_action")
    if label != "positive" or not action:
        return None
    line = format_action(action["action_type"], action["params"])
    if line is None:
        return None
    return {
        "conversations": [
            {"from": "system", "value": SYSTEM_PROMPT},
            {"from": "human", "value": render_user(step["intent"], 1280, 720, False)},
            {"from": "gpt", "value": render_assistant(step["predicted_outcome"], line)},
        ],
        "metadata": {
            "run_id": trace["run_id"],
            "tenant_id": trace["tenant_id"],
            "step": step["step_index"],
            "label": label,
            "label_reason": reason,
            "action_type": action["action_type"],
            "source": "labelled_trace",
        },
    }


def _judge(step: dict[str, Any]) -> tuple[str, str]:
    data = step.get("data") or ""
    if _ESCALATION.search(data.lower()):
        return "negative", "escalation"
    if not step.get("success"):
        return "negative", "failed_step"
    if data.startswith("gate:PASS"):
        return "positive", "gate_verify_pass"
    if step.get("observed_outcome"):
        return "positive", "success_with_observed_delta"
    return "neutral", "success_no_delta"
