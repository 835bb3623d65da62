"""The agent's predict call: `POST /v1/predict`, one task a request, the outcome in the answer."""

import json
import math
from collections.abc import Mapping
from typing import Any

import aiohttp
from pydantic import ValidationError

from sluice_api.contracts.evaluation import EvalTask, Outcome
from sluice_evaluator.errors import InfrastructureError
from sluice_evaluator.protocols.http import post_json

TOKEN_HEADERS = ("X-Sluice-Token", "X-Mantis-Token")
"""Both are sent: agents of either name know their own."""


def predict_request(task: EvalTask, model: Mapping[str, Any] | None) -> dict[str, Any]:
    """Build the request. The seed's own fields are sent beside Sluice's, so that its endpoints understand it too."""
    request: dict[str, Any] = {
        "task_id": task.task_id,
        "task_text": task.task_text,
        "url": task.url,
        "max_cost": task.max_cost,
        "max_steps": task.max_steps,
        "model": dict(model) if model is not None else None,
        "detached": False,
        "max_time_minutes": max(1, task.max_steps),
    }
    extra = task.model_extra or {}
    if extra.get("micro_plan"):
        request["task_suite"] = {"session_name": task.task_id, "_micro_plan": extra["micro_plan"]}
    else:
        request["plan_text"] = extra.get("plan_text") or task.task_text
    return request


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_outcome(url: str, answer: Mapping[str, Any]) -> Outcome:
    """Read an answer in Sluice's fields or the seed's (`viable`, `final_url`, `costs.total`, `leads`, `result`).

    Raises:
        InfrastructureError: the answer does not say whether the task succeeded, or a field has the wrong type.
    """
    fields: dict[str, Any] = {key: answer[key] for key in ("success", "status", "url", "cost") if key in answer}
    if "success" not in fields:
        if not isinstance(answer.get("viable"), int):
            raise InfrastructureError(f"{url} answered without `success`: is it a predict endpoint?")
        fields["success"] = answer["viable"] > 0
    fields.setdefault("url", answer.get("final_url") or "")
    output = answer.get("output", answer.get("leads") or answer.get("result"))
    fields["output"] = "" if output is None else _text(output)
    costs = answer.get("costs")
    if "cost" not in fields and isinstance(costs, dict):
        fields["cost"] = costs.get("total", 0.0)
    fields["duration_s"] = answer.get("duration_s", 0.0)
    fields["error"] = answer.get("error") or None
    try:
        outcome = Outcome.model_validate({**fields, "raw": dict(answer)}, strict=False)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False))
        raise InfrastructureError(f"{url} answered with a wrong type in {wrong}") from error
    if not (math.isfinite(outcome.cost) and outcome.cost >= 0 and math.isfinite(outcome.duration_s)):
        raise InfrastructureError(f"{url} answered with an impossible cost or duration")
    return outcome


class PredictRunner:
    """Runs tasks on an agent."""

    protocol = "predict/1"

    def __init__(
        self,
        client: aiohttp.ClientSession,
        url: str,
        *,
        token: str = "",
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare to call an agent.

        Args:
            client: shared client.
            url: base URL of the agent.
            token: sent in the token headers where given.
            model: `{"digest", "base_model", "adapter"}` for an agent that chooses its weights by request; None lets
                the agent decide.
        """
        self._client = client
        self._url = url.rstrip("/") + "/v1/predict"
        self._headers = dict.fromkeys(TOKEN_HEADERS, token) if token else {}
        self._model = model
        self.target = str(model["digest"]) if model and model.get("digest") else self._url

    async def run(self, task: EvalTask) -> Outcome:
        """Run a task on the agent."""
        answer = await post_json(self._client, self._url, predict_request(task, self._model), self._headers)
        return read_outcome(self._url, answer)
