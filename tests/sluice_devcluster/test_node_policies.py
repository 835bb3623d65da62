"""NetworkPolicies as rules of the packet filter, and the objects that they are made from."""

from sluice_devcluster.node.policies import Endpoint, pods_as_endpoints, ruleset, selects
from sluice_devcluster.node.policyagent import Cluster, render

NETWORK = "10.244.0.0/24"
NAMESPACES = {"loop": {"team": "a"}, "other": {"team": "b"}, "kube-system": {}}
WEB = Endpoint(namespace="loop", labels={"app": "web"}, address="10.244.0.2", ports={"http": ("TCP", 8080)})
CLIENT = Endpoint(namespace="loop", labels={"app": "client"}, address="10.244.0.3")
STRANGER = Endpoint(namespace="other", labels={"app": "client"}, address="10.244.0.4", ports={"http": ("TCP", 80)})
DNS = Endpoint(
    namespace="kube-system", labels={"k8s-app": "kube-dns"}, address="10.98.0.2", only=(("UDP", 53), ("TCP", 53))
)


def policy(spec, namespace="loop"):
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


def chain(text, name):
    """The lines of one chain; None where there is none."""
    lines = [line.strip() for line in text.splitlines()]
    if f"chain {name} {{" not in lines:
        return None
    start = lines.index(f"chain {name} {{") + 1
    return lines[start : lines.index("}", start)]


def table(*policies):
    return ruleset(policies, [WEB, CLIENT, STRANGER], [DNS], NAMESPACES, pod_network=NETWORK)


def test_without_policies_only_unknown_pods_are_stopped():
    text = table()

    assert chain(text, "forward") == [
        "type filter hook forward priority 0;",
        "ct state established,related accept",
        "ip saddr 10.244.0.0/24 ip saddr != { 10.244.0.2, 10.244.0.3, 10.244.0.4 } drop",
    ]
    assert "ip saddr 10.244.0.0/24 drop" in ruleset([], [], [], {}, pod_network=NETWORK)


def test_a_pod_that_may_open_nothing():
    text = table(policy({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}))

    assert chain(text, "egress_10_244_0_2") == ["drop"]
    assert chain(text, "egress_10_244_0_3") is None
    assert chain(text, "ingress_10_244_0_2") is None
    # The node's own programs are reached by way of another hook.
    for hook in ("forward", "input"):
        assert chain(text, hook)[-1] == "ip saddr vmap { 10.244.0.2 : jump egress_10_244_0_2 }"


def test_a_policy_holds_for_its_own_namespace():
    text = table(policy({"policyTypes": ["Ingress"]}))

    assert chain(text, "ingress_10_244_0_2") == chain(text, "ingress_10_244_0_3") == ["drop"]
    assert chain(text, "ingress_10_244_0_4") is None


def ingress(*rules, namespace="loop"):
    return policy({"policyTypes": ["Ingress"], "ingress": list(rules)}, namespace)


def test_peers_are_chosen_by_both_selectors():
    client = {"matchLabels": {"app": "client"}}

    here = table(ingress({"from": [{"podSelector": client}]}))
    assert chain(here, "ingress_10_244_0_2") == ["ip saddr 10.244.0.3 return", "drop"]
    everywhere = table(ingress({"from": [{"namespaceSelector": {}, "podSelector": client}]}))
    assert chain(everywhere, "ingress_10_244_0_2") == [
        "ip saddr 10.244.0.3 return",
        "ip saddr 10.244.0.4 return",
        "drop",
    ]
    others = {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}
    there = table(ingress({"from": [{"namespaceSelector": others, "podSelector": client}]}))
    assert chain(there, "ingress_10_244_0_2") == ["ip saddr 10.244.0.4 return", "drop"]
    everybody = table(ingress({}))
    assert chain(everybody, "ingress_10_244_0_2") == ["return", "drop"]
    assert chain(table(ingress({"from": [{"podSelector": {"matchLabels": {"app": "no"}}}]})), "ingress_10_244_0_2") == [
        "drop"
    ]


def test_blocks_of_addresses_with_exceptions():
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.244.0.4/32", "10.1.0.0/16"]}}

    assert chain(table(ingress({"from": [block]})), "ingress_10_244_0_2")[0] == (
        "ip saddr 10.0.0.0/8 ip saddr != { 10.244.0.4/32, 10.1.0.0/16 } return"
    )


def test_ports_by_number_range_protocol_and_name():
    ports = [{"port": 80}, {"port": 9000, "endPort": 9010, "protocol": "UDP"}, {"protocol": "SCTP"}, {"port": "http"}]
    text = table(ingress({"ports": ports}))

    assert chain(text, "ingress_10_244_0_2") == [
        "tcp dport 80 return",
        "udp dport 9000-9010 return",
        "meta l4proto sctp return",
        "tcp dport 8080 return",
        "drop",
    ]
    # The client has no port of that name, so nothing is opened for it.
    assert chain(table(ingress({"ports": [{"port": "http"}]})), "ingress_10_244_0_3") == ["drop"]


def egress(*rules):
    selected = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"], "egress": list(rules)}
    return policy(selected)


def test_the_name_of_a_port_is_the_receivers():
    to = [{"namespaceSelector": {}, "podSelector": {}}]

    assert chain(table(egress({"to": to, "ports": [{"port": "http"}]})), "egress_10_244_0_3") == [
        "ip daddr 10.244.0.2 tcp dport 8080 return",
        "ip daddr 10.244.0.4 tcp dport 80 return",
        "drop",
    ]
    assert chain(table(egress({"ports": [{"port": "http"}]})), "egress_10_244_0_3") == [
        "ip daddr 10.244.0.2 tcp dport 8080 return",
        "ip daddr 10.244.0.4 tcp dport 80 return",
        "drop",
    ]


def test_the_nodes_programs_are_reached_as_pods_at_their_own_ports():
    dns = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}

    assert chain(table(egress({"to": [dns]})), "egress_10_244_0_3") == [
        "ip daddr 10.98.0.2 udp dport 53 return",
        "ip daddr 10.98.0.2 tcp dport 53 return",
        "drop",
    ]


def test_policies_add_up():
    text = table(ingress({"ports": [{"port": 80}]}), ingress({"ports": [{"port": 81}]}), ingress())

    assert chain(text, "ingress_10_244_0_2") == ["tcp dport 80 return", "tcp dport 81 return", "drop"]


def test_selectors():
    labels = {"a": "1"}
    expressions = {
        ("a", "In", ("1", "2")): True,
        ("a", "NotIn", ("1",)): False,
        ("b", "NotIn", ("1",)): True,
        ("a", "Exists", ()): True,
        ("b", "DoesNotExist", ()): True,
        ("b", "In", ("1",)): False,
    }
    for (key, operator, values), expected in expressions.items():
        expression = {"key": key, "operator": operator, "values": list(values)}
        assert selects({"matchExpressions": [expression]}, labels) is expected, expression
    assert selects({}, {})
    assert not selects({"matchLabels": {"a": "2"}}, labels)


def pod(name, address="10.244.0.9", *, namespace="loop", phase="Running", host=False):
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"hostNetwork": host, "containers": [{"name": "c", "ports": [{"containerPort": 1}]}]},
        "status": {"phase": phase, **({"podIP": address} if address else {})},
    }


def test_pods_without_an_address_of_their_own_are_left_out():
    pods = [pod("a"), pod("b", None), pod("c", host=True), pod("d", phase="Succeeded"), pod("e", phase="Failed")]

    assert pods_as_endpoints(pods) == [Endpoint(namespace="loop", labels={}, address="10.244.0.9")]


def test_the_table_follows_the_watches():
    cluster = Cluster()
    cluster.replace("pods", [pod("a", "10.244.0.2")])
    cluster.replace("namespaces", [{"metadata": {"name": "loop"}}])
    assert not cluster.complete
    cluster.replace("networkpolicies", [])
    assert cluster.complete

    cluster.change("pods", {"type": "ADDED", "object": pod("b", "10.244.0.3")})
    cluster.change("pods", {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}})
    assert "{ 10.244.0.2, 10.244.0.3 } drop" in render(cluster, [], NETWORK)
    cluster.change("networkpolicies", {"type": "ADDED", "object": policy({"policyTypes": ["Ingress"]})})
    cluster.change("pods", {"type": "DELETED", "object": pod("a")})
    text = render(cluster, [], NETWORK)
    assert chain(text, "ingress_10_244_0_3") == ["drop"]
    assert "10.244.0.2" not in text
