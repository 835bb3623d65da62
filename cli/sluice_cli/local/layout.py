"""Where a local installation keeps its things."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import sluice_cli
from sluice_devcluster.providers import clusters_home

NAMESPACE = "default"
"""Namespace of the user's objects."""
SYSTEM_NAMESPACE = "sluice-system"
"""Namespace of the operator, its profiles and its Lease."""
SERVICE_ACCOUNT = "sluice-operator"
"""Identity of the operator."""
AGENT_SERVICE_ACCOUNT = "storefront-agent"
"""Identity of the agent: it may read the router's ConfigMap and nothing else."""
EXAMPLE_ROOT = "s3://sluice/storefront/"
"""Artifact root that the examples name."""
EXAMPLE_AGENT = "http://127.0.0.1:8088"
"""Agent that the examples name."""
EXAMPLE_AGENT_PORT = 8088
"""Its port."""


class CheckoutNotFound(RuntimeError):
    """The examples and the operator's role are read from a checkout; an installed wheel has none."""


def checkout() -> Path:
    """Return the project's root. Raises CheckoutNotFound."""
    root = Path(os.environ.get("SLUICE_CHECKOUT", Path(sluice_cli.__file__).parents[2]))
    if not (root / "examples" / "storefront").is_dir():
        raise CheckoutNotFound(f"{root} is no checkout of Sluice: run from one, or set SLUICE_CHECKOUT")
    return root


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Paths of one local installation, by the name of its cluster."""

    name: str
    """Name of the cluster."""
    uri: str
    """Artifact root, with a slash at its end: `s3://…` on the installation's own S3 server, or `file://…`."""
    agent_port: int = EXAMPLE_AGENT_PORT
    """Port of the storefront agent."""

    @classmethod
    def by_name(cls, name: str) -> "Layout":
        """Return the layout that the examples name literally; it fits one installation at a time."""
        return cls(name=name, uri=EXAMPLE_ROOT)

    @property
    def state(self) -> Path:
        """Logs, tokens and kubeconfigs of the processes."""
        return clusters_home() / self.name / "sluice"

    @property
    def owner(self) -> str:
        """Marker in the environment of every process of this installation."""
        return str(self.state)

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.state / "logs"

    @property
    def bucket(self) -> str:
        """Bucket of the artifact root; empty where the root is a folder."""
        scheme, _, rest = self.uri.partition("://")
        return rest.partition("/")[0] if scheme == "s3" else ""

    @property
    def buckets(self) -> Path:
        """Data of the S3 server: it stays until the cluster goes."""
        return clusters_home() / self.name / "s3"

    @property
    def bucket_keys(self) -> Path:
        """Keys of the buckets' owner, as JSON: they stay as long as the data does."""
        return clusters_home() / self.name / "s3-keys.json"

    @property
    def storage_access(self) -> Path:
        """Variables by which clients find the S3 server, as JSON."""
        return self.state / "s3.json"

    @property
    def traces(self) -> str:
        """Trace store."""
        return f"{self.uri}traces/"

    @property
    def agent_url(self) -> str:
        """URL of the storefront agent."""
        return f"http://127.0.0.1:{self.agent_port}"

    def localise(self, manifest: str) -> str:
        """Return an example's text with this installation's root and agent in the place of the examples' own."""
        text = manifest.replace(EXAMPLE_ROOT, self.uri)
        return re.sub(re.escape(EXAMPLE_AGENT) + r"\b", self.agent_url, text)
