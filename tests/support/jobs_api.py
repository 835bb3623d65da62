"""A small Jobs API with Ray's semantics, for tests that need hundreds of jobs and not Ray itself.

It keeps Ray's promises that the operator relies on, and nothing more: a submission ID is taken once, a job is a process
of its own with the environment that was submitted, stopping is SIGTERM, and a wrong token is refused. What Ray itself
adds (queues, supervisors, seconds of start) is covered by the tests that run on the real one. The entrypoint `sluice`
runs the real worker, any other one the fast worker.
"""

import asyncio
import os
import secrets
import signal
import threading
from pathlib import Path

from aiohttp import web

from operators import Forked, Zygote


class JobsApi:
    """Runs in a thread of its own; use as a context manager."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.token = secrets.token_hex(16)
        self.submissions = 0
        """Jobs that were accepted."""
        self.refused = 0
        """Submissions of an ID that was taken."""
        self._zygote = zygote
        self._folder = folder
        self.logs = folder
        """Folder of the jobs' logs."""
        self._url = ""
        self.jobs: dict[str, dict] = {}
        """Every job, by submission ID, as the API shows it."""
        self._processes: dict[str, Forked] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def address(self) -> str:
        """Base URL, as a profile's `address`."""
        return self._url

    def auth_env(self) -> dict[str, str]:
        """Environment of its clients."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def running(self) -> list[str]:
        """Return the IDs of the jobs whose process lives."""
        return sorted(name for name, process in list(self._processes.items()) if process.poll() is None)

    def __enter__(self) -> "JobsApi":
        self._thread.start()
        self._url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(10)

    async def _start(self) -> str:
        application = web.Application(middlewares=[self._authorised])
        application.router.add_post("/api/jobs/", self._submit)
        application.router.add_get("/api/jobs/{name}", self._show)
        application.router.add_post("/api/jobs/{name}/stop", self._end)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @web.middleware
    async def _authorised(self, request, handler):
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        return await handler(request)

    async def _submit(self, request):
        body = await request.json()
        name = body["submission_id"]
        if name in self.jobs:
            self.refused += 1
            return web.Response(status=400, text=f"ValueError: Job with submission_id {name} already exists.")
        self.submissions += 1
        self.jobs[name] = {"status": "RUNNING", "message": "Job is currently running.", "metadata": body["metadata"]}
        env = {**os.environ, **body["runtime_env"]["env_vars"]}
        *program, kind, worker = body["entrypoint"].split()
        self._processes[name] = self._zygote.spawn(
            [kind, worker],
            env,
            self._folder / f"{name}.log",
            program="sluice" if program == ["sluice"] else "worker",
        )
        return web.json_response({"submission_id": name})

    async def _show(self, request):
        name = request.match_info["name"]
        job = self.jobs.get(name)
        if job is None:
            return web.Response(status=404, text=f"Job {name} does not exist")
        status = self._processes[name].poll()
        if job["status"] == "RUNNING" and status is not None:
            job["status"] = "SUCCEEDED" if status == 0 else "FAILED"
            job["message"] = f"Job entrypoint command failed with exit code {status}, last available logs: …"
        return web.json_response(job)

    async def _end(self, request):
        name = request.match_info["name"]
        job = self.jobs.get(name)
        if job is None:
            return web.Response(status=404, text=f"Job {name} does not exist")
        if self._processes[name].poll() is None:
            self._processes[name].send_signal(signal.SIGTERM)
            job.update(status="STOPPED", message="Job was intentionally stopped.")
        return web.json_response({"stopped": True})
