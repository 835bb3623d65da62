"""The level-triggered loop: read, decide, apply, and come back.

`reconcile` never raises. An error becomes a condition and a back-off; a conflict is another look at once. The next look
is always scheduled: when the decision asks for it, to the second, or within half a minute to a minute anyway, so that
no event has to arrive for the object to move on.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from sluice_api.v1alpha1.common import FINALIZER, SluiceObject
from sluice_operator.apply import Applier
from sluice_operator.decisions import decide, wanted
from sluice_operator.decisions.base import Now
from sluice_operator.decisions.reasons import Reason
from sluice_operator.decisions.roots import outside_roots
from sluice_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    LeaseLostError,
    OperatorError,
    UnreachableError,
)
from sluice_operator.events import EventRecorder
from sluice_operator.index import ReferenceIndex
from sluice_operator.metrics import Metrics
from sluice_operator.observe import Surroundings, observe
from sluice_operator.problems import with_problem
from sluice_operator.profiles import describe
from sluice_operator.resources import MODELS, OWN
from sluice_operator.workqueue import Key, WorkQueue

RESYNC_S = (30.0, 60.0)
"""Bounds of the jittered time after which every object is looked at anyway, in seconds."""
BACKOFF_S = (1.0, 60.0)
"""First and longest delay after an error, in seconds; doubled and jittered in between."""
DELETION_BACKOFF_S = 4.0
"""Longest delay after an error while an object is being deleted, in seconds: nobody likes to wait for that."""
CALM_PASSES = 25
"""Changing passes in a row from which the next one is delayed: a decision that never settles must not spin."""
OWN_WRITES = 16
"""Own writes remembered of an object, so that their events do not wake it."""

logger = logging.getLogger(__name__)

Raw = dict[str, Any]


def utc_now() -> datetime:
    """Return the present instant."""
    return datetime.now(UTC)


class Reconciler:
    """Reconciles one object at a time for each key of the queue."""

    def __init__(
        self,
        world: Surroundings,
        queue: WorkQueue,
        events: EventRecorder,
        metrics: Metrics,
        *,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
    ) -> None:
        """Work on `world`; `now` is the wall clock of decisions, `rng` jitters delays."""
        self.world = world
        self.queue = queue
        self.index = ReferenceIndex()
        self.metrics = metrics
        self.lease_lost = asyncio.Event()
        self._applier = Applier(world, events)
        self._now = now
        self._rng = rng or random.Random()
        self._failures: dict[Key, int] = {}
        self._busy: dict[Key, int] = {}
        self._written: dict[str, list[str]] = {}
        self._deleting: set[Key] = set()

    async def work(self) -> None:
        """Take keys from the queue for ever."""
        while True:
            key = await self.queue.take()
            try:
                delay = await self.reconcile(key.kind, key.namespace, key.name, key.uid)
            finally:
                self.queue.done(key)
            if delay is not None:
                self.queue.add(key, after=delay)

    def seen(self, kind: str, namespace: str, name: str, uid: str, version: str, *, gone: bool) -> None:
        """Take note of one of the five kinds' objects: wake it, unless the news is our own, and what waits for it."""
        key = Key(kind=kind, namespace=namespace, name=name, uid=uid)
        for dependent in self.index.dependents(kind, namespace, name):
            self.queue.add(dependent)
        if gone or version not in self._written.get(uid, ()):
            self.queue.add(key)

    def child_seen(self, owner_uid: str) -> None:
        """Wake the owner of a child that changed."""
        key = self.index.by_uid(owner_uid)
        if key is not None:
            self.queue.add(key)

    def wake_all(self) -> None:
        """Look at every object again, e.g. because the profiles changed."""
        for key in self.index.known():
            self.queue.add(key)

    async def reconcile(self, kind: str, namespace: str, name: str, uid: str) -> float | None:
        """Look at one object, decide, act. Return the seconds until the next look; None when it is gone."""
        key = Key(kind=kind, namespace=namespace, name=name, uid=uid)
        started = time.monotonic()
        try:
            delay = await self._once(key)
            self._failures.pop(key, None)
            return delay
        except (ConflictError, AlreadyExistsError) as error:
            logger.info("%s: changed meanwhile, looking again (%s)", key, error)
            return self._back_off(key, first=0.05)
        except LeaseLostError as error:
            logger.error("%s", error)
            self.lease_lost.set()
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, this object waits and the others go on
            return await self._failed(key, error)
        finally:
            self.metrics.reconcile_seconds.labels(kind).observe(time.monotonic() - started)

    async def _once(self, key: Key) -> float | None:
        raw = await self.world.cluster.get(OWN[key.kind], key.namespace, key.name)
        if raw is None or raw["metadata"]["uid"] != key.uid:
            self._forget(key)
            return None
        if raw["metadata"].get("deletionTimestamp"):
            self._deleting.add(key)
        # A list's items carry neither; a single object's do, but decisions and events rely on them.
        raw.update(apiVersion=OWN[key.kind].api_version, kind=key.kind)
        try:
            obj: SluiceObject = MODELS[key.kind].model_validate(raw)
        except ValidationError as error:
            return await self._invalid(key, raw, error)
        # Before anything is read: reading somebody else's storage is what must not happen.
        refusal = "" if obj.deleting else outside_roots(obj, self.world.settings)
        if refusal:
            await self._tell(key, raw, Reason.STORAGE_NOT_ALLOWED, refusal, stalled=True)
            return self._rng.uniform(*RESYNC_S)
        wants = wanted(obj)
        targets = {(kind, key.namespace, name) for kind, name in wants.references}
        if wants.rivals:
            targets.add((key.kind, key.namespace, ""))
        self.index.record(key, targets)
        observed = await observe(obj, wants, self.world)
        decision = decide(obj, observed, Now(instant=self._now()))
        after = await self._applier.apply(raw, obj, decision)
        changed = self._note(key, raw, after) or bool(decision.actions)
        return self._next(key, changed=changed, requeue=decision.requeue_after)

    def _note(self, key: Key, before: Raw, after: Raw) -> bool:
        """Remember our own write and publish the figures; True when there was one."""
        self.metrics.observe(key, after.get("status") or {})
        old, new = before["metadata"]["resourceVersion"], after["metadata"].get("resourceVersion")
        if new is None or new == old:
            return False
        self._written[key.uid] = [*self._written.get(key.uid, ()), str(new)][-OWN_WRITES:]
        self.metrics.writes.labels(key.kind).inc()
        return True

    def _next(self, key: Key, *, changed: bool, requeue: timedelta | None) -> float:
        resync = self._rng.uniform(*RESYNC_S)
        self._busy[key] = self._busy.get(key, 0) + 1 if changed else 0
        if changed and requeue is None:
            # Our own write is no event that wakes us: see for ourselves whether there is more to do.
            requeue = timedelta()
        if requeue is None:
            return resync
        delay = min(resync, max(0.0, requeue.total_seconds()))
        if self._busy[key] > CALM_PASSES:
            calm = min(BACKOFF_S[1], 0.5 * 2.0 ** min(10, self._busy[key] - CALM_PASSES))
            logger.warning("%s: %d changing passes in a row, next in %.1f s", key, self._busy[key], calm)
            delay = max(delay, calm)
        return delay

    async def _invalid(self, key: Key, raw: Raw, error: ValidationError) -> float:
        """Say what is wrong with an object that slipped past the CRD; a deletion of it is let go."""
        metadata = raw["metadata"]
        if metadata.get("deletionTimestamp") and FINALIZER in (metadata.get("finalizers") or []):
            self._note(key, raw, await self.world.cluster.set_finalizer(raw, FINALIZER, present=False))
            return BACKOFF_S[0]
        message = f"the spec is invalid: {describe(error)}; correct it"
        await self._tell(key, raw, "InvalidSpec", message, stalled=True)
        return self._rng.uniform(*RESYNC_S)

    async def _failed(self, key: Key, error: Exception) -> float:
        """Turn an error into a condition and a delay."""
        known = isinstance(error, OperatorError)
        reason = error.reason if isinstance(error, OperatorError) else "InternalError"
        self.metrics.reconcile_errors.labels(key.kind, reason).inc()
        if known:
            logger.warning("%s: %s: %s", key, reason, error)
        else:
            logger.error("%s: %s", key, reason, exc_info=error)
        delay = self._back_off(key, first=BACKOFF_S[0])
        if isinstance(error, UnreachableError):
            return max(delay, error.retry_after or 0.0)
        stalled = isinstance(error, OperatorError) and error.terminal
        message = (
            str(error) if known else f"{type(error).__name__}: the operator's log has the details; it is tried again"
        )
        try:
            raw = await self.world.cluster.get(OWN[key.kind], key.namespace, key.name)
            if raw is not None and raw["metadata"]["uid"] == key.uid:
                await self._tell(key, raw, reason, message, stalled=stalled)
        except (ClusterError, LeaseLostError) as problem:
            logger.warning("%s: the error could not be written into its status: %s", key, problem)
        except Exception:  # one object that defies even this must not end the work on all the others
            logger.exception("%s: the error could not be written into its status", key)
        return delay

    async def _tell(self, key: Key, raw: Raw, reason: str, message: str, *, stalled: bool) -> None:
        raw.update(apiVersion=OWN[key.kind].api_version, kind=key.kind)
        status: Mapping[str, Any] = with_problem(
            raw.get("status") or {},
            generation=int(raw["metadata"].get("generation") or 1),
            reason=reason,
            message=message,
            instant=self._now(),
            stalled=stalled,
        )
        self._note(key, raw, await self._applier.write_status(raw, status))

    def _back_off(self, key: Key, *, first: float) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        longest = DELETION_BACKOFF_S if key in self._deleting else BACKOFF_S[1]
        return min(longest, first * 2.0 ** min(failures, 12)) * self._rng.uniform(0.8, 1.2)

    def _forget(self, key: Key) -> None:
        self._deleting.discard(key)
        self.index.forget(key)
        self.metrics.forget(key)
        self.queue.drop(key)
        for memory in (self._failures, self._busy):
            memory.pop(key, None)
        self._written.pop(key.uid, None)
