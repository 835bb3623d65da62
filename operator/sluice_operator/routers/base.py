"""The Protocol of traffic routers.

A router reads what is in force and writes both weights in one request. It decides nothing: whose weights they should be
comes from the decision, and what it sees goes back as a `RouteView`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.decisions.base import RouteView, SetRoute
from sluice_operator.manifests.naming import LABEL_MANAGED_BY, LABEL_OWNER_KIND, MANAGER


class Router(Protocol):
    """Where a rollout's weights take effect."""

    async def read(self, rollout: ShadowRollout) -> RouteView:
        """Return the route as it is. A name taken by a foreign object is a `RouterProblem.CONFLICT`."""

    async def write(self, rollout: ShadowRollout, route: SetRoute) -> None:
        """Bring both weights into force with one request.

        Raises ForeignObjectError when the name is taken, a ClusterError when the API server refuses.
        """


def is_ours(raw: Mapping[str, Any]) -> bool:
    """Tell whether an object was made for a rollout, whichever one."""
    labels = (raw.get("metadata") or {}).get("labels") or {}
    return bool(labels.get(LABEL_MANAGED_BY) == MANAGER and labels.get(LABEL_OWNER_KIND) == ShadowRollout.crd.kind)
