"""The Jobs API of a Ray cluster that already runs, over HTTP with token authentication.

The submission ID is the job's name, so Ray itself keeps two drivers for one attempt apart; the owner's UID travels in
the metadata. Environment variables carry the job input; the token comes from the operator's own environment and is
never written into an object.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from sluice_api.contracts.jobs import JOB_INPUT_VARIABLE
from sluice_api.v1alpha1.common import SluiceObject
from sluice_operator.backends.base import LOG_LINES, JobKey
from sluice_operator.decisions.base import JobState, JobView, Profile
from sluice_operator.errors import BackendError, BackendUnreachableError, ForeignObjectError

OWNER = "sluice.dev/owner-uid"
"""Metadata key of the owner's UID."""
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
"""Ray's variable for the token itself."""
TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"
"""Ray's variable for a file that holds the token; read for every request, so that it may be rotated."""
STOP_WAIT_VARIABLE, STOP_WAIT_S = "RAY_JOB_STOP_WAIT_TIME_S", 60
"""Ray's variable for the seconds between a stopped driver's SIGTERM and SIGKILL, and their number; Ray's own are 3.

Read by the job's supervisor, which has the job's runtime environment. A training takes a step and a checkpoint to end.
"""
TIMEOUT = aiohttp.ClientTimeout(total=20, connect=5)
"""Of one request."""
STATES = {
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "STOPPED": JobState.STOPPED,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
}
"""Ray's job states."""


class RayBackend:
    """Jobs on a running Ray cluster."""

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        """Read the token from `environment`, by default the process's own."""
        self._environment = os.environ if environment is None else environment
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def submit(self, key: JobKey, profile: Profile, job_input: Any, *, workers: int, owner: SluiceObject) -> None:
        """Submit a driver. The answer may be lost and the call repeated: the name decides, not the answer."""
        if await self._find(key, profile) is not None:
            return
        body = submission(key, profile, job_input)
        try:
            status, text = await self._request("POST", profile, "/api/jobs/", body)
        except BackendUnreachableError:
            # The reply may be lost although the job was accepted.
            if await self._find(key, profile) is not None:
                return
            raise
        if status == 200 or await self._find(key, profile) is not None:
            return
        raise BackendError(f"Ray at {profile.address} refused job {key.name} ({status}): {last_line(text)}")

    async def status(self, key: JobKey, profile: Profile) -> JobView:
        """Return how the job stands."""
        try:
            job = await self._find(key, profile)
        except BackendError as error:
            return JobView(name=key.name, state=JobState.UNKNOWN, reason=error.reason, message=str(error))
        if job is None:
            return JobView(
                name=key.name,
                state=JobState.MISSING,
                reason="NotFound",
                message=f"Ray at {profile.address} knows no job {key.name}: its head was restarted, or it was deleted",
            )
        state = STATES.get(str(job.get("status")), JobState.UNKNOWN)
        message = verdict(str(job.get("message") or ""), key) if state is not JobState.RUNNING else ""
        return JobView(name=key.name, state=state, reason=str(job.get("error_type") or ""), message=message)

    async def stop(self, key: JobKey, profile: Profile) -> None:
        """Ask the driver to stop: SIGTERM, and after `STOP_WAIT_S` SIGKILL."""
        job = await self._find(key, profile)
        if job is None or STATES.get(str(job.get("status"))) not in (JobState.PENDING, JobState.RUNNING):
            return
        status, text = await self._request("POST", profile, f"/api/jobs/{key.name}/stop")
        if status not in (200, 404):
            raise BackendError(f"Ray at {profile.address} did not stop job {key.name} ({status}): {last_line(text)}")

    async def logs(self, key: JobKey, profile: Profile) -> str:
        """Return the end of the driver's log."""
        status, text = await self._request("GET", profile, f"/api/jobs/{key.name}/logs")
        if status != 200:
            raise BackendError(f"Ray at {profile.address} has no log of job {key.name} ({status})")
        return "\n".join(str(json.loads(text).get("logs") or "").splitlines()[-LOG_LINES:])

    async def _find(self, key: JobKey, profile: Profile) -> dict[str, Any] | None:
        status, text = await self._request("GET", profile, f"/api/jobs/{key.name}")
        if status == 404:
            return None
        if status != 200:
            raise BackendUnreachableError(
                f"Ray at {profile.address} cannot say how job {key.name} stands ({status}): {last_line(text)}"
            )
        job = json.loads(text)
        owner = (job.get("metadata") or {}).get(OWNER)
        if owner != key.owner:
            raise ForeignObjectError(
                f"Ray at {profile.address} has a job {key.name} that is not ours: delete it, or use another cluster"
            )
        return dict(job)

    async def _request(
        self, method: str, profile: Profile, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, str]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        url = profile.address.rstrip("/") + path
        try:
            headers = self._headers()
            async with self._session.request(method, url, json=body, headers=headers) as response:
                status, text = response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BackendUnreachableError(
                f"Ray at {profile.address} (profile {profile.name}) does not answer: {error or type(error).__name__}; "
                "check that the cluster runs and that the profile's address is its dashboard's"
            ) from error
        if status in (401, 403):
            raise BackendUnreachableError(
                f"Ray at {profile.address} (profile {profile.name}) refuses the operator's token ({status}); "
                f"give the operator {TOKEN_VARIABLE} or {TOKEN_PATH_VARIABLE}"
            )
        return status, text

    def _headers(self) -> dict[str, str]:
        token = self._environment.get(TOKEN_VARIABLE, "")
        path = self._environment.get(TOKEN_PATH_VARIABLE, "")
        if not token and path:
            token = Path(path).read_text(encoding="utf-8")
        return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def submission(key: JobKey, profile: Profile, job_input: Any) -> dict[str, Any]:
    """Return the body of a submission."""
    variables = {
        STOP_WAIT_VARIABLE: str(STOP_WAIT_S),
        **profile.env,
        JOB_INPUT_VARIABLE: job_input.model_dump_json(exclude_none=True),
    }
    return {
        "entrypoint": f"{profile.entrypoint} worker {job_input.worker}",
        "submission_id": key.name,
        "runtime_env": {"env_vars": variables},
        "metadata": {
            OWNER: key.owner,
            "sluice.dev/owner": f"{job_input.run.kind}/{job_input.run.namespace}/{job_input.run.name}",
            "sluice.dev/attempt": str(job_input.attempt),
        },
        "entrypoint_num_cpus": profile.num_cpus,
        # Training takes its accelerators through Ray Train's workers; an evaluation serves the model in its driver.
        "entrypoint_num_gpus": 1 if profile.accelerator and job_input.worker == "eval" else 0,
    }


def verdict(message: str, key: JobKey) -> str:
    """Return Ray's own sentence on a job, without the log that Ray appends: a log may quote what was traced."""
    sentence = message.partition("\n")[0].partition(", last available logs")[0].strip()[:1000]
    return f"{sentence}; its log: ray job logs {key.name}" if "exit code" in sentence else sentence


def last_line(text: str) -> str:
    """Return the last line that says anything: a traceback's error, not its frames."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:1000] if lines else ""
