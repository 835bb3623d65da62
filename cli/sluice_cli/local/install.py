"""Installs Sluice's objects into a cluster: CRDs, namespaces, roles, the compute profile.

The operator gets exactly the rules of `charts/sluice/rbac/rules.yaml`, the ones that the chart binds; the agent may
read its router's ConfigMap and nothing else.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sluice_api import generator
from sluice_api.v1alpha1 import KINDS
from sluice_cli.local.layout import AGENT_SERVICE_ACCOUNT, NAMESPACE, SERVICE_ACCOUNT, SYSTEM_NAMESPACE, checkout

ROUTER_CONFIG_MAP = "storefront-router"
"""ConfigMap that the storefront agent follows."""


class InstallError(RuntimeError):
    """The API server refused an object; the message is kubectl's."""


def operator_rules() -> Mapping[str, Any]:
    """Return the operator's rules as the chart has them."""
    path = checkout() / "charts" / "sluice" / "rbac" / "rules.yaml"
    document: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def _object(kind: str, name: str, namespace: str = "", *, group: str = "v1", **content: Any) -> dict[str, Any]:
    """Return a manifest."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": group, "kind": kind, "metadata": metadata, **content}


def _role(name: str, namespace: str, account: str, account_namespace: str, rules: Any) -> list[dict[str, Any]]:
    """Return a Role and its binding to a service account."""
    group = "rbac.authorization.k8s.io/v1"
    return [
        _object("Role", name, namespace, group=group, rules=rules),
        _object(
            "RoleBinding",
            name,
            namespace,
            group=group,
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": account, "namespace": account_namespace}],
        ),
    ]


def manifests(profiles: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return everything but the CRDs: namespaces, accounts, roles, and the profiles' ConfigMap."""
    rules = operator_rules()
    router_rules = [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [ROUTER_CONFIG_MAP],
            "verbs": ["get", "watch", "list"],
        }
    ]
    return [
        _object("Namespace", SYSTEM_NAMESPACE),
        _object("ServiceAccount", SERVICE_ACCOUNT, SYSTEM_NAMESPACE),
        _object("ServiceAccount", AGENT_SERVICE_ACCOUNT, NAMESPACE),
        *_role("sluice-operator", NAMESPACE, SERVICE_ACCOUNT, SYSTEM_NAMESPACE, rules["workload"]),
        *_role("sluice-operator-system", SYSTEM_NAMESPACE, SERVICE_ACCOUNT, SYSTEM_NAMESPACE, rules["system"]),
        *_role(AGENT_SERVICE_ACCOUNT, NAMESPACE, AGENT_SERVICE_ACCOUNT, NAMESPACE, router_rules),
        _object(
            "ConfigMap",
            "sluice-profiles",
            SYSTEM_NAMESPACE,
            data={name: yaml.safe_dump(dict(profile), sort_keys=False) for name, profile in profiles.items()},
        ),
    ]


def apply(kubectl: Path, environment: Mapping[str, str], objects: Sequence[Mapping[str, Any]]) -> None:
    """Apply objects on the server's side. Raises InstallError."""
    listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    command = [str(kubectl), "apply", "--server-side", "--force-conflicts", "--field-manager=sluice-install", "-f", "-"]
    done = subprocess.run(
        command, input=listing, text=True, capture_output=True, env=dict(environment), timeout=120, check=False
    )
    if done.returncode != 0:
        raise InstallError(done.stderr.strip())


def _await_kinds(kubectl: Path, environment: Mapping[str, str]) -> None:
    """Wait until the API server serves the kinds. Raises InstallError."""
    names = [f"crd/{kind.crd.plural}.sluice.dev" for kind in KINDS]
    command = [str(kubectl), "wait", "--for=condition=Established", "--timeout=30s", *names]
    for last in (False, False, True):
        done = subprocess.run(command, text=True, capture_output=True, env=dict(environment), timeout=90, check=False)
        # A brand-new CRD has no conditions yet, which kubectl takes for an error instead of waiting.
        if done.returncode == 0:
            return
        if last:
            raise InstallError(done.stderr.strip())


def install(kubectl: Path, environment: Mapping[str, str], profiles: Mapping[str, Mapping[str, Any]]) -> None:
    """Install the CRDs and wait for them, then the rest. Raises InstallError."""
    apply(kubectl, environment, [generator.custom_resource_definition(kind) for kind in KINDS])
    _await_kinds(kubectl, environment)
    apply(kubectl, environment, manifests(profiles))
