"""NetworkPolicies as rules of the node's packet filter. No IO.

One table is replaced as a whole, so that the packet filter never sees a half of it. Every pod that a policy selects
has a chain of its own for each direction in which it is isolated: what a rule allows returns from it, the rest is
dropped. A pod that the table does not know yet may open nothing, so that no pod runs for a moment without its policies.

The node's own programs count as pods of their Services: a selector that would match CoreDNS or the S3 server in a
cluster where they are pods matches them here, at the node's address and their ports. What comes from the node itself,
such as the kubelet's probes and the gateway, is always let in, as Kubernetes asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TABLE = "inet sluice_policies"

Labels = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A pod, or a program of the node that stands for one."""

    namespace: str
    labels: Labels
    address: str
    ports: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Named ports: protocol and number."""
    only: tuple[tuple[str, int], ...] = ()
    """Protocols and ports that alone are its own at its address; empty where all of them are."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Where traffic may go to or come from: addresses, and ports that alone are meant there."""

    match: str
    """In the packet filter's words, with ``{side}`` for the direction's address; empty for everybody."""
    endpoint: Endpoint | None = None


def pods_as_endpoints(pods: Iterable[Mapping[str, Any]]) -> list[Endpoint]:
    """The pods that have an address of their own and have not ended."""
    found = []
    for pod in pods:
        spec, status, metadata = pod["spec"], pod.get("status", {}), pod["metadata"]
        if spec.get("hostNetwork") or not status.get("podIP") or status.get("phase") in ("Succeeded", "Failed"):
            continue
        ports = {
            port["name"]: (port.get("protocol", "TCP"), int(port["containerPort"]))
            for container in spec["containers"]
            for port in container.get("ports", ())
            if "name" in port
        }
        labels = metadata.get("labels", {})
        found.append(Endpoint(namespace=metadata["namespace"], labels=labels, address=status["podIP"], ports=ports))
    return found


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_expression(expression, labels) for expression in selector.get("matchExpressions", ()))


def _expression(expression: Mapping[str, Any], labels: Labels) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values", ())
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    return (key in labels) is (operator == "Exists")


def ruleset(
    policies: Sequence[Mapping[str, Any]],
    pods: Sequence[Endpoint],
    programs: Sequence[Endpoint],
    namespaces: Mapping[str, Labels],
    *,
    pod_network: str,
) -> str:
    """The whole table, as ``nft --file`` takes it.

    Args:
        policies: every NetworkPolicy.
        pods: every pod, of :func:`pods_as_endpoints`.
        programs: the node's own programs.
        namespaces: every namespace's labels.
        pod_network: where pods have their addresses.
    """
    chains: list[str] = []
    maps: dict[str, list[str]] = {"egress": [], "ingress": []}
    for pod in pods:
        for direction, elements in maps.items():
            applying = [policy for policy in policies if _isolates(policy, pod, direction)]
            if not applying:
                continue
            chain = f"{direction}_{pod.address.replace('.', '_')}"
            elements.append(f"{pod.address} : jump {chain}")
            rules = [
                line
                for policy in applying
                for rule in policy["spec"].get(direction) or ()
                for line in _rule(rule, direction, pod, policy["metadata"]["namespace"], [*pods, *programs], namespaces)
            ]
            chains.append(_chain(chain, [*dict.fromkeys(rules), "drop"]))
    known = ", ".join(pod.address for pod in pods)
    first = [
        "ct state established,related accept",
        f"ip saddr {pod_network} ip saddr != {{ {known} }} drop" if known else f"ip saddr {pod_network} drop",
    ]
    verdicts = {
        direction: [f"ip {side} vmap {{ {', '.join(maps[direction])} }}"] if maps[direction] else []
        for direction, side in (("egress", "saddr"), ("ingress", "daddr"))
    }
    hooks = (
        _chain("forward", ["type filter hook forward priority 0;", *first, *verdicts["egress"], *verdicts["ingress"]]),
        _chain("input", ["type filter hook input priority 0;", *first, *verdicts["egress"]]),
    )
    # Declared, deleted and written anew in one transaction: the first line makes the second valid the first time.
    return "\n".join([f"table {TABLE} {{ }}", f"delete table {TABLE}", f"table {TABLE} {{", *chains, *hooks, "}", ""])


def _chain(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"  chain {name} {{", *(f"    {line}" for line in lines), "  }"])


def _isolates(policy: Mapping[str, Any], pod: Endpoint, direction: str) -> bool:
    spec = policy["spec"]
    # The API server sets the types; an egress section without them would mean both.
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and direction.capitalize() in types
        and selects(spec.get("podSelector") or {}, pod.labels)
    )


def _rule(
    rule: Mapping[str, Any],
    direction: str,
    pod: Endpoint,
    namespace: str,
    endpoints: Sequence[Endpoint],
    namespaces: Mapping[str, Labels],
) -> list[str]:
    """The lines that return what one rule of a policy allows ``pod``."""
    side = "daddr" if direction == "egress" else "saddr"
    named = rule.get("to" if direction == "egress" else "from") or ()
    peers = [peer for entry in named for peer in _peers(entry, namespace, endpoints, namespaces)]
    if not named:
        peers = [Peer(match="")]
    lines = []
    for peer in peers:
        # A port's name is the receiver's: in one direction the peer's, in the other the pod's own.
        receiver = pod if direction == "ingress" else peer.endpoint
        for ports in _ports(rule.get("ports") or (), receiver, endpoints if receiver is None else ()):
            only = _only(peer.endpoint) if direction == "egress" else [""]
            lines += [" ".join(filter(None, (peer.match.format(side=side), ports, each, "return"))) for each in only]
    return lines


def _peers(
    entry: Mapping[str, Any], namespace: str, endpoints: Sequence[Endpoint], namespaces: Mapping[str, Labels]
) -> list[Peer]:
    block = entry.get("ipBlock")
    if block is not None:
        excepted = ", ".join(block.get("except") or ())
        match = f"ip {{side}} {block['cidr']}" + (f" ip {{side}} != {{{{ {excepted} }}}}" if excepted else "")
        return [Peer(match=match)]
    selected = entry.get("namespaceSelector")
    return [
        Peer(match=f"ip {{side}} {endpoint.address}", endpoint=endpoint)
        for endpoint in endpoints
        if (
            endpoint.namespace == namespace
            if selected is None
            else selects(selected, namespaces.get(endpoint.namespace, {}))
        )
        and selects(entry.get("podSelector") or {}, endpoint.labels)
    ]


def _ports(ports: Sequence[Mapping[str, Any]], receiver: Endpoint | None, anybody: Sequence[Endpoint]) -> list[str]:
    """Matches of the ports, one of which must hold; a single empty one where every port is meant.

    Args:
        ports: of a rule.
        receiver: whose names of ports are meant; None where the rule names nobody.
        anybody: who may be meant then.
    """
    if not ports:
        return [""]
    found = []
    for entry in ports:
        protocol, port = str(entry.get("protocol", "TCP")), entry.get("port")
        if port is None:
            found.append(f"meta l4proto {protocol.lower()}")
        elif isinstance(port, int):
            found.append(f"{protocol.lower()} dport {port}" + (f"-{entry['endPort']}" if "endPort" in entry else ""))
        elif receiver is not None:
            if receiver.ports.get(port, ("", 0))[0] == protocol:
                found.append(f"{protocol.lower()} dport {receiver.ports[port][1]}")
        else:
            found += [
                f"ip daddr {endpoint.address} {protocol.lower()} dport {endpoint.ports[port][1]}"
                for endpoint in anybody
                if endpoint.ports.get(port, ("", 0))[0] == protocol
            ]
    return found


def _only(endpoint: Endpoint | None) -> list[str]:
    if endpoint is None or not endpoint.only:
        return [""]
    return [f"{protocol.lower()} dport {port}" for protocol, port in endpoint.only]
