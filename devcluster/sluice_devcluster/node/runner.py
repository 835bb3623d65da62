"""Starting a node's namespaces and programs, one after the other, and asking each whether it is well."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sluice_devcluster.errors import ComponentError
from sluice_devcluster.files import tail, write_atomic
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node.cgroups import create_tree, read_hierarchies
from sluice_devcluster.node.layout import MOUNT_POINTS, NODE_NAME, Node
from sluice_devcluster.node.sandbox import Sandbox, create_sandbox, find_program, run_command
from sluice_devcluster.node.service import Health, Service
from sluice_devcluster.node.state import NodeState
from sluice_devcluster.processes import alive, stop
from sluice_devcluster.reporting import Reporter

_POLL_S = 0.05
_NODE_READY_S = 120.0


class NodeRunner:
    """Starts programs on one node and keeps the record of them.

    Args:
        node: which.
        state: what is running already; :attr:`state` is what is running now.
        state_file: where that is written, before anything waits for a program.
        reporter: where progress is told.
        tethered: let the kernel end the node when the thread that starts it ends.
    """

    def __init__(
        self, node: Node, state: NodeState, state_file: Path, reporter: Reporter, *, tethered: bool = False
    ) -> None:
        self.node, self.state = node, state
        self._state_file, self._reporter, self._tethered = state_file, reporter, tethered

    def sandbox(self) -> Sandbox:
        """The namespaces of the node.

        Raises:
            ComponentError: there are none.
        """
        if self.state.init is None:
            raise ComponentError(f"the node of cluster {self.node.name} does not run")
        return Sandbox(self.state.init, owner=str(self.node.folder), namespaces=self.node.namespaces)

    def create(self) -> None:
        """Make the node's folders, control groups, namespaces and network.

        Raises:
            ComponentError: the kernel or a command refuses something.
        """
        node = self.node
        for folder in (node.state, node.configuration, *(node.over(point) for point in MOUNT_POINTS)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        node.control.logs.mkdir(mode=0o700, exist_ok=True)
        create_tree(node.cgroup, read_hierarchies())
        # Names outside the cluster are nobody's: the node has no way out. Never replaced, because it is mounted.
        node.resolv_conf.write_text(f"nameserver {node.network.address}\n")
        with self._reporter.stage("make the node's namespaces and network"):
            sandbox = create_sandbox(
                node.mount_commands(Path("/etc/resolv.conf").resolve()),
                folder=node.state,
                log=node.log("init"),
                owner=str(node.folder),
                tethered=self._tethered,
            )
            self.record(init=sandbox.init)
            for command in node.network.link_commands(sandbox.init.pid):
                run_command([find_program(command[0]), *command[1:]])
            for command in node.network.node_commands():
                sandbox.run([find_program(command[0]), *command[1:]])
            for command in node.network.route_commands():
                run_command([find_program(command[0]), *command[1:]])
            self.record(laid=True)

    def start(self, services: Sequence[Service]) -> None:
        """Start those of ``services`` that are not well, in order, each after the one before it is well.

        Raises:
            ComponentError: one ended, or was not well in time.
        """
        for service in services:
            if self.health(service)[0]:
                continue
            if service.name in self.state.services:
                stop([self.state.services[service.name]], patience_s=5.0)
            with self._reporter.stage(f"start {service.name}"):
                self._start(service)

    def end(self, services: Sequence[Service]) -> None:
        """Stop ``services`` and forget them."""
        names = {service.name for service in services}
        stop([process for name, process in self.state.services.items() if name in names], patience_s=5.0)
        kept = {name: process for name, process in self.state.services.items() if name not in names}
        self.record(services=kept)

    def health(self, service: Service) -> Health:
        """Whether the service runs and is well, and what was seen."""
        process = self.state.services.get(service.name)
        if process is None:
            return False, "was not started"
        if not alive(process):
            return False, "does not run"
        return service.health(self.node, self.sandbox())

    def record(self, **changes: object) -> None:
        """Change the state and write it."""
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        self.state.write(self._state_file)

    def _start(self, service: Service) -> None:
        node, sandbox = self.node, self.sandbox()
        service.before(node, sandbox)
        for path, content in service.files(node).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content.encode())
        environment = {**os.environ, **service.environment(node)}
        process = sandbox.start(service.argv(node), log=node.log(service.name), env=environment)
        self.record(services={**self.state.services, service.name: process})
        deadline = time.monotonic() + service.timeout_s
        while not (health := service.health(node, sandbox))[0]:
            log = node.log(service.name)
            if not alive(process):
                raise ComponentError(f"{service.name} ended while it started; the end of {log}:\n{tail(log)}")
            if time.monotonic() > deadline:
                raise ComponentError(
                    f"{service.name} was not ready after {service.timeout_s:.0f} s ({health[1]}); "
                    f"the end of {log}:\n{tail(log)}"
                )
            time.sleep(_POLL_S)
        service.after(node, sandbox)

    def await_node(self, since: datetime) -> None:
        """Wait until Kubernetes calls the node Ready and pods can be created.

        A node that was up before is called Ready until Kubernetes has noticed otherwise, so its kubelet must have been
        heard of ``since`` it was started.

        Raises:
            ComponentError: that did not happen in time.
        """
        deadline = time.monotonic() + _NODE_READY_S
        with self._reporter.stage("wait for the node to be Ready"):
            while not (health := node_health(self.node))[0] or not _heard_since(self.node, since):
                if time.monotonic() > deadline:
                    log = self.node.log("kubelet")
                    raise ComponentError(f"the node is not Ready: {health[1]}; the end of {log}:\n{tail(log)}")
                time.sleep(0.2)


def node_health(node: Node) -> Health:
    """Whether Kubernetes calls the node Ready and the first service account exists, and what was seen."""
    template = '{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}'
    answer = _kubectl(node, "get", "node", NODE_NAME, f"--output=jsonpath={template}")
    status, _, message = answer.strip().partition(" ")
    if status != "True":
        return False, message or "is not registered"
    account = _kubectl(node, "get", "serviceaccount", "default", "--namespace=default", "--output=name")
    return (True, "Ready") if account.strip() else (False, "the default service account does not exist yet")


def _heard_since(node: Node, moment: datetime) -> bool:
    """Whether the kubelet has reported the node's conditions since ``moment``, which it does as soon as it starts."""
    template = '{.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}'
    text = _kubectl(node, "get", "node", NODE_NAME, f"--output=jsonpath={template}")
    # Kubernetes writes whole seconds.
    return bool(text) and datetime.fromisoformat(text) >= moment.replace(microsecond=0)


def _kubectl(node: Node, *arguments: str) -> str:
    """What kubectl prints; nothing when it fails."""
    kubectl = node.binaries / "kubectl"
    return run_kubectl(node.control.kubeconfig, *arguments, "--request-timeout=5s", check=False, kubectl=kubectl).stdout
