"""Kubernetes events: news for people, never state."""

import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sluice_api.instants import format_instant
from sluice_operator.cluster import FIELD_MANAGER, Cluster
from sluice_operator.decisions.base import EmitEvent
from sluice_operator.errors import ClusterError

REPEAT_S = 300.0
"""The same news of the same object is told again after this time, in seconds."""
MEMORY = 4096
"""News remembered."""
MESSAGE_LIMIT = 1024
"""Longest message that the API server takes."""

logger = logging.getLogger(__name__)


class EventRecorder:
    """Writes events. Losing one is no failure: it is logged and nothing else."""

    def __init__(self, cluster: Cluster, *, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Record as `instance`; `clock` in seconds."""
        self._cluster = cluster
        self._instance = instance
        self._clock = clock
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def record(self, raw: dict[str, Any], event: EmitEvent) -> None:
        """Record an event about an object, once in a while for the same news."""
        metadata = raw["metadata"]
        news = (str(metadata["uid"]), event.reason, event.message)
        now = self._clock()
        if now - self._told.get(news, float("-inf")) < REPEAT_S:
            return
        self._told[news] = now
        self._told.move_to_end(news)
        while len(self._told) > MEMORY:
            self._told.popitem(last=False)
        try:
            await self._cluster.post_event(self._manifest(raw, event))
        except ClusterError as error:
            logger.warning("event %s of %s not recorded: %s", event.reason, metadata.get("name"), error)

    def _manifest(self, raw: dict[str, Any], event: EmitEvent) -> dict[str, Any]:
        metadata = raw["metadata"]
        now = datetime.now(UTC)
        seconds = format_instant(now)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": raw["apiVersion"],
                "kind": raw["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "action": event.reason,
            "message": event.message[:MESSAGE_LIMIT],
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "eventTime": format_instant(now, "microseconds"),
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": f"sluice.dev/{FIELD_MANAGER}",
            "reportingInstance": self._instance[:128],
        }
