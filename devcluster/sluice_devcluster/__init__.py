"""A real Kubernetes on one machine, for the demo, the tests and development.

``make_provider(ProviderName.EMBEDDED).up(name)`` starts etcd, an API server and a controller manager without Docker;
``kind`` and ``existing`` are the other providers. :mod:`sluice_devcluster.s3` runs an S3 server,
:mod:`sluice_devcluster.gotools` builds what both need, once, into a cache.
"""

from sluice_devcluster.errors import BuildError, ComponentError, DevClusterError, PortTakenError, ProviderError
from sluice_devcluster.providers import (
    Cluster,
    Component,
    Provider,
    ProviderName,
    State,
    Status,
    make_provider,
)

__all__ = [
    "BuildError",
    "Cluster",
    "Component",
    "ComponentError",
    "DevClusterError",
    "PortTakenError",
    "Provider",
    "ProviderError",
    "ProviderName",
    "State",
    "Status",
    "make_provider",
]
