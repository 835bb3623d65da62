"""The pipelines that one would write first: a JSON library, a loop over dictionaries, one line of JSON a row."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sluice_api.actions import format_action
from sluice_api.chat import SYSTEM_PROMPT, render_assistant, render_user

_ESCALATION = re.compile("cloudflare|page_blocked|rejected_incomplete|antibot|page_exhausted|scan_error")


def plain_pipeline(
    documents: Iterable[bytes], loads: Callable[[bytes], Any], dumps: Callable[[Any], bytes]
) -> Iterator[bytes]:
    """Label and convert with a given JSON library; yields the rows."""
    for raw in documents:
        trace = loads(raw)
        for step in trace["steps"]:
            label, reason = _judge(step)
            if label != "positive" or not step.get("last_action"):
                continue
            action = step["last_action"]
            line = format_action(action["action_type"], action["params"])
            if line is None:
                continue
            yield dumps(
                {
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
            )


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
