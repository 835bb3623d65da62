"""`/healthz` and `/metrics`.

Health is more than an open port: it turns red when an object that is due has waited, or is being worked on, for longer
than any request may take; then the process is stuck and a restart helps. A process that waits for the Lease is healthy.
"""

from aiohttp import web

from sluice_operator.metrics import Metrics
from sluice_operator.workqueue import WorkQueue

MAX_LAG_S = 300.0
"""Age of the most overdue object, in seconds, from which the process counts as stuck."""


class HealthServer:
    """The operator's HTTP endpoints."""

    def __init__(
        self, queue: WorkQueue, metrics: Metrics, *, host: str, port: int, max_lag_s: float = MAX_LAG_S
    ) -> None:
        """Serve on `host` and `port`; port 0 takes a free one."""
        self._queue = queue
        self._metrics = metrics
        self._host = host
        self._port = port
        self._max_lag_s = max_lag_s
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Start serving; return the port."""
        application = web.Application()
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/metrics", self._render)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        lag = self._queue.lag()
        healthy = lag < self._max_lag_s
        body = {"healthy": healthy, "lagSeconds": round(lag, 3), "maxLagSeconds": self._max_lag_s}
        return web.json_response(body, status=200 if healthy else 500)

    async def _render(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})
