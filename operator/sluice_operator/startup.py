"""Puts the operator together and runs it: Lease first, then workers, watches and the periodic looks.

kopf is the watcher and nothing else. Its settings keep it alive through whatever the API server does: back-offs
without an end, capped and jittered; timeouts everywhere; no peering (the Lease does that); no scanning (CRDs are
installed before the operator); no posting of log lines as events. Should a watch end all the same, it starts again.
"""

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import kopf
from kubernetes.aio import client as kubernetes_client

from sluice_operator.backends.job import JobBackend
from sluice_operator.backends.kuberay import KubeRayBackend
from sluice_operator.backends.ray import RayBackend
from sluice_operator.cluster import FIELD_MANAGER, Cluster, load_configuration
from sluice_operator.decisions.base import Backend, Settings
from sluice_operator.errors import ClusterError, LeaseLostError
from sluice_operator.events import EventRecorder
from sluice_operator.handlers import register_all
from sluice_operator.health import HealthServer
from sluice_operator.lease import LeaseConfig, LeaseLock
from sluice_operator.manifests.naming import LABEL_MANAGED_BY, MANAGER
from sluice_operator.metrics import Metrics
from sluice_operator.observe import Surroundings
from sluice_operator.profiles import ProfileSource
from sluice_operator.reconcile import Reconciler
from sluice_operator.resources import CONFIG_MAP, HTTP_ROUTE, JOB, OWN, RAY_JOB
from sluice_operator.routers.configmap import ConfigMapRouter
from sluice_operator.routers.httproute import HTTPRouteRouter
from sluice_operator.workqueue import WorkQueue

PREFIX = "kopf.sluice.dev"
"""Prefix of kopf's own names; with event handlers alone none is ever written."""
RELIST_S = (60.0, 120.0)
"""Bounds of the jittered time between two listings of everything, in seconds: a watch may go silent or blind."""
PROFILES_S = 5.0
"""Time between two looks at the profiles, in seconds."""
LONGEST_BACKOFF_S = 30.0
"""Cap of the delay between a watch's attempts, in seconds."""
EXIT_LEASE_LOST = 3
"""Exit code when the Lease was lost: whoever runs the operator starts it again, and it waits for its turn."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OperatorConfig:
    """How the operator runs."""

    lease: LeaseConfig
    """The Lease; its namespace is the operator's own, where the profiles are."""
    namespace: str | None
    """Namespace that is served; None for all."""
    health_host: str = "127.0.0.1"
    """Address of `/healthz` and `/metrics`."""
    health_port: int = 8080
    """Port of `/healthz` and `/metrics`; 0 takes a free one."""
    workers: int = 16
    """Objects reconciled at the same time."""
    settings: Settings = field(default_factory=Settings)
    """Configuration that decisions need."""
    guards_across_namespaces: bool = False
    """Whether rollouts of all namespaces may ask one Prometheus."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if self.namespace is None and not self.settings.storage_roots:
            raise ValueError(
                "--all-namespaces needs --storage-root, e.g. s3://models/{namespace}/: the operator moves channels "
                "with one credential, and a namespace could name another's"
            )
        if self.namespace is None and self.settings.prometheus and not self.guards_across_namespaces:
            raise ValueError(
                "--prometheus with --all-namespaces: a guard's query may ask for any namespace's metrics; allow that "
                "with --guards-across-namespaces, or give a Prometheus that holds what every namespace may know"
            )


class Backoffs:
    """Delays without an end: doubling, capped, jittered. Iterated anew for every request."""

    def __iter__(self) -> Iterator[float]:
        """Yield the delays of one request's attempts, in seconds."""
        delay = 0.5
        while True:
            yield delay * random.uniform(0.8, 1.2)
            delay = min(LONGEST_BACKOFF_S, delay * 2)


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf up as a watcher that does not give up and does not write."""
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    for resource in (CONFIG_MAP, HTTP_ROUTE, JOB, RAY_JOB):
        settings.watching.label_selectors[resource.group, resource.version, resource.plural] = (
            f"{LABEL_MANAGED_BY}={MANAGER}"
        )
    settings.queueing.worker_limit = None
    settings.execution.max_workers = 50
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.level = logging.WARNING
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = 30
    # Never our own finalizer: kopf removes the one that it takes for its own where no handler of its needs it.
    settings.persistence.finalizer = f"{PREFIX}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=PREFIX)


class Operator:
    """One operator process."""

    def __init__(self, config: OperatorConfig) -> None:
        """Describe the operator; `run` runs it."""
        self.config = config
        self.queue = WorkQueue()
        self.metrics = Metrics()
        self.metrics.watch_queue(self.queue.depth, self.queue.lag)
        self.lock = LeaseLock(config.lease)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT (0), or until the Lease is lost (`EXIT_LEASE_LOST`)."""
        self._take_signals()
        health = HealthServer(self.queue, self.metrics, host=self.config.health_host, port=self.config.health_port)
        port = await health.start()
        logger.info("serving /healthz and /metrics at http://%s:%d", self.config.health_host, port)
        client = kubernetes_client.ApiClient(await load_configuration())
        client.user_agent = FIELD_MANAGER
        self.lock.use(Cluster(client))
        try:
            if not await self._until_stopped(self.lock.acquire()):
                return 0
            return await self._lead(Cluster(client, guard=self.lock.check))
        finally:
            await self.lock.release()
            await client.close()
            await health.stop()

    async def _lead(self, cluster: Cluster) -> int:
        self.metrics.leader.set(1)
        config = self.config
        ray = RayBackend()
        world = Surroundings(
            cluster=cluster,
            profiles=ProfileSource(cluster, config.lease.namespace),
            backends={
                Backend.RAY: ray,
                Backend.KUBERAY: KubeRayBackend(cluster),
                Backend.JOB: JobBackend(cluster),
            },
            routers={"configMap": ConfigMapRouter(cluster), "httpRoute": HTTPRouteRouter(cluster)},
            settings=config.settings,
            scope=config.namespace,
        )
        recorder = EventRecorder(cluster, instance=config.lease.identity)
        reconciler = Reconciler(world, self.queue, recorder, self.metrics)
        endless = [
            self.lock.hold(),
            self._watch(reconciler),
            self._relist(cluster, reconciler),
            self._reload_profiles(world, reconciler),
            self._lease_lost(reconciler),
            *(reconciler.work() for _ in range(config.workers)),
        ]
        try:
            await self._until_stopped(_first_of(endless))
            return 0
        except LeaseLostError as error:
            logger.error("%s: ending", error)
            return EXIT_LEASE_LOST
        finally:
            self.metrics.leader.set(0)
            await ray.close()

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` until it ends (True) or the process is asked to stop (False); its errors are raised."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            return task.done()
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    async def _keep_signals(self, ready: asyncio.Event) -> None:
        """Take the signals back from kopf, which claims them when it starts."""
        await ready.wait()
        self._take_signals()

    async def _watch(self, reconciler: Reconciler) -> None:
        """Keep kopf's watches running."""
        delays = iter(Backoffs())
        scope: dict[str, Any] = {"clusterwide": True}
        if self.config.namespace is not None:
            scope = {"namespaces": [self.config.namespace]}
        while True:
            registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
            configure(settings)
            register_all(registry, reconciler)
            kopf.on.login(registry=registry)(_login)
            ready = asyncio.Event()
            signals = asyncio.ensure_future(self._keep_signals(ready))
            try:
                await kopf.operator(registry=registry, settings=settings, standalone=True, ready_flag=ready, **scope)
                # kopf ends without an error only when a signal reached it instead of us.
                self._stop.set()
                return
            except Exception as error:  # noqa: BLE001 - reconciliation goes on by its timers meanwhile
                logger.warning("the watches failed (%s: %s); starting them again", type(error).__name__, error)
            finally:
                signals.cancel()
            await asyncio.sleep(next(delays))

    async def _relist(self, cluster: Cluster, reconciler: Reconciler) -> None:
        """List everything now and then: events may be missed, and a watch may be blind without knowing."""
        while True:
            await asyncio.sleep(random.uniform(*RELIST_S))
            for kind, resource in OWN.items():
                try:
                    listed = await cluster.list(resource, self.config.namespace)
                except ClusterError as error:
                    logger.warning("%s not listed: %s", kind, error)
                    continue
                known = {key.uid for key in reconciler.index.known() if key.kind == kind}
                for metadata in (raw["metadata"] for raw in listed):
                    if metadata["uid"] not in known:
                        place = (kind, metadata["namespace"], metadata["name"], metadata["uid"])
                        reconciler.seen(*place, metadata["resourceVersion"], gone=False)

    async def _reload_profiles(self, world: Surroundings, reconciler: Reconciler) -> None:
        """Notice changed profiles and look at everything again."""
        profiles = ProfileSource(world.cluster, self.config.lease.namespace)
        while True:
            try:
                if await profiles.reload():
                    logger.info("the profiles changed")
                    reconciler.wake_all()
            except ClusterError as error:
                logger.warning("profiles not read: %s", error)
            await asyncio.sleep(PROFILES_S)

    async def _lease_lost(self, reconciler: Reconciler) -> None:
        await reconciler.lease_lost.wait()
        raise LeaseLostError("a write was refused because the Lease is no longer ours")


async def _first_of(endless: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first that ends or fails ends the others."""
    tasks = [asyncio.ensure_future(each) for each in endless]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """Log kopf in as the pod's service account, or as `KUBECONFIG` says."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
