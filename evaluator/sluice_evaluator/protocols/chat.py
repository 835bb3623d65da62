"""Single-turn tasks on an OpenAI-compatible server: `POST /v1/chat/completions`, greedy."""

import time

import aiohttp

from sluice_api.contracts.evaluation import EvalTask, Outcome
from sluice_artifacts import digest_bytes
from sluice_evaluator.errors import InfrastructureError
from sluice_evaluator.protocols.http import post_json


class ChatRunner:
    """Asks a model directly. The output is the text; success means a non-empty answer that ended by itself."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        url: str,
        *,
        model: str,
        target: str = "",
        token: str = "",
        system: str = "",
    ) -> None:
        """Prepare to ask a model.

        Args:
            client: shared client.
            url: base URL of the server.
            model: name of the model on the server.
            target: digest of its weights, where known.
            token: bearer token, where needed.
            system: system turn; none where empty.
        """
        self._client = client
        self._url = url.rstrip("/") + "/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._model = model
        self._system = system
        # what every request says is part of what an answer depends on, and so of the key of a cached one
        self.protocol = f"chat/1+{digest_bytes(system.encode())}" if system else "chat/1"
        self.target = target or f"{self._url}#{model}"

    async def run(self, task: EvalTask) -> Outcome:
        """Ask for one completion."""
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages.append({"role": "user", "content": task.task_text})
        request = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": task.max_tokens,
        }
        started = time.monotonic()
        answer = await post_json(self._client, self._url, request, self._headers)
        try:
            choice = answer["choices"][0]
            text, reason = choice["message"]["content"] or "", choice.get("finish_reason")
        except (KeyError, IndexError, TypeError) as error:
            raise InfrastructureError(f"{self._url} answered without choices[0].message.content") from error
        if not isinstance(text, str):
            raise InfrastructureError(f"{self._url} answered content that is not text")
        clean = bool(text.strip()) and reason == "stop"
        return Outcome(
            success=clean,
            status="completed" if clean else f"finish_reason:{reason}",
            output=text,
            duration_s=time.monotonic() - started,
            raw={"finish_reason": reason, "usage": answer.get("usage")},
        )
