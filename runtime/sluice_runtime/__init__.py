"""What runs beside the agent: trace exporter, sticky shadow router, rollout follower, model resolver, model server.

Names are imported on first use, so that an agent pays for what it uses and never for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sluice_api.contracts.rollout import ServedModel
    from sluice_runtime.exporter import FinishedRun, TraceExporter
    from sluice_runtime.follower import (
        Assignment,
        FileSource,
        KubernetesSource,
        Placement,
        RolloutFollower,
    )
    from sluice_runtime.mirror import read_request
    from sluice_runtime.resolver import ChannelResolver, ResolverConfig
    from sluice_runtime.router import ShadowRouter

_MODULES = {
    "Assignment": "follower",
    "ChannelResolver": "resolver",
    "FileSource": "follower",
    "FinishedRun": "exporter",
    "KubernetesSource": "follower",
    "Placement": "follower",
    "ResolverConfig": "resolver",
    "RolloutFollower": "follower",
    "ServedModel": "follower",
    "ShadowRouter": "router",
    "TraceExporter": "exporter",
    "read_request": "mirror",
}

__all__ = [
    "Assignment",
    "ChannelResolver",
    "FileSource",
    "FinishedRun",
    "KubernetesSource",
    "Placement",
    "ResolverConfig",
    "RolloutFollower",
    "ServedModel",
    "ShadowRouter",
    "TraceExporter",
    "read_request",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
