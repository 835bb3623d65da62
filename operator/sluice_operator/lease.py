"""The Lease that makes one operator act at a time.

It is acquired before anything else starts and renewed while the process lives; losing it ends the process. Time is
measured on the monotonic clock of each process alone: a foreign Lease has expired when its record has not changed for
its whole duration while we watched. Before every write the holder checks that its last renewal is younger than the
duration, so that a process that was stopped for a minute writes nothing when it wakes.
"""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sluice_api.instants import format_instant
from sluice_operator.cluster import Cluster
from sluice_operator.errors import AlreadyExistsError, ClusterError, ConflictError, LeaseLostError
from sluice_operator.resources import LEASE

LEASE_NAME = "sluice-operator"
"""Name of the Lease in the operator's namespace."""

logger = logging.getLogger(__name__)


def default_identity() -> str:
    """Return the pod's name, or host and process where there is no pod."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, kw_only=True)
class LeaseConfig:
    """How the Lease is held."""

    namespace: str
    """Namespace of the Lease."""
    identity: str
    """Who holds it; the same identity takes it over at once, e.g. after a crash."""
    duration_s: float = 15.0
    """Age of the last renewal from which others may take it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be held."""
        if self.duration_s < 2.0:
            raise ValueError(f"lease duration must be at least 2 s, not {self.duration_s}")
        if not self.identity:
            raise ValueError("the lease needs an identity")

    @property
    def interval_s(self) -> float:
        """Time between renewals: a third, so that two may fail."""
        return self.duration_s / 3


class LeaseLock:
    """Holds the Lease for this process."""

    def __init__(self, config: LeaseConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use a monotonic clock, in seconds."""
        self.config = config
        self._clock = clock
        self._cluster: Cluster | None = None
        self._renewed_at: float | None = None
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0

    def use(self, cluster: Cluster) -> None:
        """Use this connection; it must not be guarded by this very lock."""
        self._cluster = cluster

    def check(self) -> None:
        """Raise LeaseLostError unless the last renewal is young enough to act on."""
        if self._renewed_at is None or self._clock() - self._renewed_at >= self.config.duration_s:
            raise LeaseLostError(
                f"{self.config.identity} no longer holds Lease {LEASE_NAME}: it was not renewed in time"
            )

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        waiting_for = ""
        while True:
            try:
                holder = await self._try()
            except ClusterError as error:
                holder = f"the API server ({error})"
            if holder is None:
                logger.info("holding lease %s as %s", LEASE_NAME, self.config.identity)
                return
            if holder != waiting_for:
                logger.info("waiting for lease %s, held by %s", LEASE_NAME, holder)
                waiting_for = holder
            await asyncio.sleep(min(1.0, self.config.interval_s) * random.uniform(0.8, 1.2))

    async def hold(self) -> None:
        """Renew until it is lost, then raise LeaseLostError."""
        while True:
            await asyncio.sleep(self.config.interval_s)
            try:
                holder = await self._try()
            except ClusterError as error:
                logger.warning("lease not renewed: %s", error)
                self.check()
                continue
            if holder is not None:
                self._renewed_at = None
                raise LeaseLostError(f"Lease {LEASE_NAME} was taken over by {holder}")

    async def release(self) -> None:
        """Give the Lease back on a clean exit, so that the next one need not wait."""
        try:
            self.check()
            raw = await self._read()
            if raw is not None and raw["spec"].get("holderIdentity") == self.config.identity:
                raw["spec"]["holderIdentity"] = ""
                await self._connection().update(raw)
        except (LeaseLostError, ClusterError) as error:
            logger.info("lease not released: %s", error)
        finally:
            self._renewed_at = None

    async def _try(self) -> str | None:
        """Take or renew the Lease; return who holds it instead, None when it is ours."""
        asked_at = self._clock()
        raw = await self._read()
        try:
            if raw is None:
                await self._connection().create(self._manifest(transitions=0))
            else:
                holder = str((raw.get("spec") or {}).get("holderIdentity") or "")
                if holder not in ("", self.config.identity) and not self._expired(raw):
                    return holder
                await self._connection().update({**raw, "spec": self._spec(raw)})
        except (AlreadyExistsError, ConflictError):
            return "another process, which was faster"
        # Counted from before the request: the others may have seen it that early.
        self._renewed_at = asked_at
        return None

    def _expired(self, raw: Mapping[str, Any]) -> bool:
        spec = raw["spec"]
        record = (str(raw["metadata"]["resourceVersion"]), str(spec.get("holderIdentity")))
        now = self._clock()
        if record != self._seen:
            self._seen, self._seen_at = record, now
            return False
        return now - self._seen_at >= float(spec.get("leaseDurationSeconds") or self.config.duration_s)

    def _spec(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        old = raw.get("spec") or {}
        same = old.get("holderIdentity") == self.config.identity
        spec = self._manifest(transitions=int(old.get("leaseTransitions") or 0) + (0 if same else 1))["spec"]
        if same and old.get("acquireTime"):
            spec["acquireTime"] = old["acquireTime"]
        return dict(spec)

    def _manifest(self, *, transitions: int) -> dict[str, Any]:
        now = format_instant(datetime.now(UTC), "microseconds")
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": LEASE_NAME, "namespace": self.config.namespace},
            "spec": {
                "holderIdentity": self.config.identity,
                "leaseDurationSeconds": max(1, round(self.config.duration_s)),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    async def _read(self) -> dict[str, Any] | None:
        return await self._connection().get(LEASE, self.config.namespace, LEASE_NAME)

    def _connection(self) -> Cluster:
        if self._cluster is None:
            raise LeaseLostError("the lease has no connection")
        return self._cluster
