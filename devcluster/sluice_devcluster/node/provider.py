"""The node provider: a control plane and one node, on which pods run."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sluice_devcluster import controlplane, gotools
from sluice_devcluster.certs import write_pki
from sluice_devcluster.errors import ComponentError, ProviderError
from sluice_devcluster.files import locked
from sluice_devcluster.node.addons import Addon, choose_addons
from sluice_devcluster.node.cleanup import end_processes, interfaces, remove_folder, remove_leftovers
from sluice_devcluster.node.containerd import CONTAINERD
from sluice_devcluster.node.control import control_services
from sluice_devcluster.node.dns import COREDNS
from sluice_devcluster.node.identities import has_identities, issue_identities, write_kubeconfigs
from sluice_devcluster.node.images import import_archive
from sluice_devcluster.node.kubelet import KUBELET
from sluice_devcluster.node.kubeproxy import KUBE_PROXY
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.machine import SharedMachine
from sluice_devcluster.node.network import NodeNetwork
from sluice_devcluster.node.packages import PACKAGES, require_packages
from sluice_devcluster.node.runner import NodeRunner, node_health
from sluice_devcluster.node.sandbox import Sandbox
from sluice_devcluster.node.service import Service
from sluice_devcluster.node.starting import start_addons
from sluice_devcluster.node.state import NodeState
from sluice_devcluster.providers import (
    Cluster,
    Component,
    ProviderName,
    State,
    Status,
    check_name,
    clusters_home,
    read_record,
    write_record,
)
from sluice_devcluster.reporting import Reporter, default_reporter


def base_services() -> tuple[Service, ...]:
    """What every node runs, in the order in which it starts."""
    return (*control_services(), CONTAINERD, KUBELET, KUBE_PROXY, COREDNS)


class NodeProvider:
    """Runs clusters with one node each, in namespaces of their own. Needs root.

    ``up`` is safe to repeat: it starts what is missing, and add-ons that were not asked for before. After a crash or a
    reboot it starts the node again with its data, as a machine that lost its power would; an ``up`` that never
    completed is swept away and begun afresh.

    Args:
        home: folder of all clusters' folders.
        reporter: where progress is told.
        addons: names of what is started beside Kubernetes (:func:`~sluice_devcluster.node.addons.known_addons`).
        install_packages: let ``apt-get`` install what is missing.
        tethered: let the kernel end the node when the thread that called ``up`` ends.
        machine: what all nodes share.
        now: the clock by which certificates are dated.
    """

    def __init__(
        self,
        *,
        home: Path | None = None,
        reporter: Reporter | None = None,
        addons: Sequence[str] = (),
        install_packages: bool = False,
        tethered: bool = False,
        machine: SharedMachine | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._home = home or clusters_home()
        self._reporter = reporter or default_reporter()
        self._addons = [addon.name for addon in choose_addons(addons)]
        self._install, self._tethered, self._now = install_packages, tethered, now
        self._machine = machine or SharedMachine()

    def up(self, name: str) -> Cluster:
        """See :class:`~sluice_devcluster.providers.Provider`."""
        _require_root()
        with self._locked(name) as folder:
            write_record(folder, ProviderName.NODE)
            state = NodeState.read(_state_file(folder))
            addons = choose_addons([*state.addons, *self._addons])
            tools = self._provide(addons)
            runner = self._runner(name, folder, state, tools)
            if not self._repaired(runner):
                runner = self._start_node(name, folder, state, tools)
            start_addons(runner, addons, self._reporter)
            return self._cluster(runner)

    def status(self, name: str) -> Status:
        """See :class:`~sluice_devcluster.providers.Provider`."""
        folder = self._home / check_name(name)
        if not folder.is_dir():
            return Status(name=name, provider=ProviderName.NODE, state=State.ABSENT)
        state = NodeState.read(_state_file(folder))
        runner = self._runner(name, folder, state, {})
        components = self._components(runner)
        known = runner.node.control.kubeconfig.is_file()
        running = any(component.pid is not None for component in components)
        whole = state.complete and all(component.healthy for component in components)
        return Status(
            name=name,
            provider=ProviderName.NODE,
            state=State.READY if whole else State.DEGRADED if running else State.STOPPED,
            kubeconfig=runner.node.control.kubeconfig if known else None,
            server=runner.node.server if known else None,
            components=components,
        )

    def down(self, name: str) -> bool:
        """See :class:`~sluice_devcluster.providers.Provider`. Removes the cluster's data and images too."""
        if not (self._home / check_name(name)).is_dir():
            return False
        _require_root()
        with self._locked(name) as folder:
            if not folder.is_dir():
                return False
            record = read_record(folder)
            if record is not None and record["provider"] != ProviderName.NODE:
                raise ProviderError(f"cluster {name!r} belongs to the provider {record['provider']!r}")
            with self._reporter.stage(f"stop cluster {name}"):
                self._sweep(name, folder, NodeState.read(_state_file(folder)))
                self._machine.release(folder)
                remove_folder(folder)
        return True

    def load(self, name: str, archives: Sequence[Path]) -> list[str]:
        """Bring image archives into the node and return the images' names.

        Raises:
            ProviderError: there is no such cluster, or no such file.
            ComponentError: the node does not run, or containerd refuses an archive.
        """
        images: list[str] = []
        sandbox = self.sandbox(name)
        for archive in archives:
            with self._reporter.stage(f"import {archive.name}"):
                images += import_archive(sandbox, archive)
        return images

    def sandbox(self, name: str) -> Sandbox:
        """The namespaces of a node that runs, to run something in them.

        Raises:
            ProviderError: there is no such cluster.
            ComponentError: its node does not run.
        """
        folder = (self._home / check_name(name)).absolute()
        record = read_record(folder)
        if record is None or record["provider"] != ProviderName.NODE:
            raise ProviderError(f"there is no cluster {name!r} with a node: sluice cluster up --node --name {name}")
        return self._runner(name, folder, NodeState.read(_state_file(folder)), {}).sandbox()

    def node(self, name: str) -> Node:
        """The node's files and addresses."""
        folder = (self._home / check_name(name)).absolute()
        return self._runner(name, folder, NodeState.read(_state_file(folder)), {}).node

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """The cluster's folder, with no other up or down of the same name under way."""
        folder = (self._home / check_name(name)).absolute()
        lock = self._home / f".{name}.lock"
        with locked(lock, waiting=lambda: self._reporter.note(f"waiting for another command on cluster {name}")):
            yield folder

    def _provide(self, addons: Sequence[Addon]) -> dict[str, Path]:
        """Everything that is built or installed; minutes the first time."""
        packages: dict[str, Sequence[str]] = dict(PACKAGES)
        for addon in addons:
            packages.update(addon.packages)
        require_packages(self._reporter, install=self._install, packages=packages)
        gotools.kubernetes_binaries(self._reporter)
        gotools.build(gotools.pause_tool(), self._reporter)
        tools = {"coredns": gotools.build(gotools.coredns_tool(), self._reporter) / "coredns"}
        for addon in addons:
            tools.update(addon.tools(self._reporter))
        return tools

    def _runner(
        self, name: str, folder: Path, state: NodeState, tools: dict[str, Path], network: NodeNetwork | None = None
    ) -> NodeRunner:
        folder = folder.absolute()
        network = network or NodeNetwork(index=state.index or 0)
        binaries = gotools.built(gotools.kubernetes_tool()) or folder
        node = Node(name=name, folder=folder, network=network, binaries=binaries, tools=tools)
        return NodeRunner(node, state, _state_file(folder), self._reporter, tethered=self._tethered)

    def _start_node(self, name: str, folder: Path, state: NodeState, tools: dict[str, Path]) -> NodeRunner:
        """The node with its data when it was complete once, else a new one."""
        self._sweep(name, folder, state)
        if state.complete:
            self._reporter.note(f"cluster {name} was up but is not whole; starting it again with its data")
            try:
                return self._begin(name, folder, state, tools, fresh=False)
            except ComponentError as error:
                self._reporter.note(f"its data cannot be used ({str(error).splitlines()[0]}); beginning afresh")
        return self._begin(name, folder, state, tools, fresh=True)

    def _begin(self, name: str, folder: Path, state: NodeState, tools: dict[str, Path], *, fresh: bool) -> NodeRunner:
        network = self._machine.acquire(folder, interfaces())
        known = has_identities(self._runner(name, folder, state, tools, network).node)
        fresh = fresh or network.index != state.index or not known
        begun = NodeState(index=network.index) if fresh else replace(state, laid=False, init=None, services={})
        runner = self._runner(name, folder, begun, tools, network)
        try:
            if fresh:
                self._lay_out(runner.node)
            runner.record(version=gotools.kubernetes_tool().version)
            runner.create()
            started = datetime.now(UTC)
            write_kubeconfigs(runner.node)
            runner.start(base_services())
            runner.await_node(started)
            runner.record(complete=True)
        except BaseException:
            # Also on Ctrl-C. The logs stay for whoever looks; the next up sweeps them.
            self._sweep(name, folder, runner.state)
            raise
        return runner

    def _lay_out(self, node: Node) -> None:
        """A new cluster: nothing of an earlier one by this name remains but the record of its provider."""
        control = node.control
        for leftover in (control.pki.folder, control.data, control.logs, node.state):
            if leftover.exists():
                remove_folder(leftover)
        for path in (control.kubeconfig, control.controller_manager_kubeconfig):
            path.unlink(missing_ok=True)
        address = node.network.address
        with self._reporter.stage("create certificates"):
            write_pki(
                control.pki.folder,
                service_ip=controlplane.SERVICE_IP,
                now=self._now(),
                addresses=(address,),
                further=lambda authority: issue_identities(authority, address),
            )
        # etcd insists that nobody else can look into its data.
        control.data.mkdir(mode=0o700)
        node.configuration.mkdir(parents=True)

    def _repaired(self, runner: NodeRunner) -> bool:
        """Start what has ended on a node that was complete and still exists; False where that is not enough."""
        state = runner.state
        if not (state.complete and state.laid) or not runner.sandbox().alive:
            return False
        try:
            runner.start(base_services())
        except ComponentError as error:
            self._reporter.note(str(error).splitlines()[0])
            return False
        return node_health(runner.node)[0]

    def _components(self, runner: NodeRunner) -> tuple[Component, ...]:
        services = [*base_services()]
        for addon in choose_addons(runner.state.addons):
            services += addon.services
        components = []
        for service in services:
            healthy, detail = runner.health(service)
            process = runner.state.services.get(service.name)
            pid = process.pid if process is not None and detail != "does not run" else None
            components.append(Component(name=service.name, healthy=healthy, detail=detail, pid=pid, port=service.port))
        healthy, detail = node_health(runner.node) if runner.node.control.kubeconfig.is_file() else (False, "unknown")
        return (*components, Component(name="node", healthy=healthy, detail=detail))

    def _sweep(self, name: str, folder: Path, state: NodeState) -> None:
        """End everything of the node, recorded or not, and remove what it left outside its folder."""
        end_processes(folder, state.services.values(), state.init)
        node = self._runner(name, folder, state, {}).node
        remove_leftovers(None if state.index is None else node.network, node.cgroup)

    def _cluster(self, runner: NodeRunner) -> Cluster:
        return Cluster(
            name=runner.node.name,
            provider=ProviderName.NODE,
            kubeconfig=runner.node.control.kubeconfig,
            server=runner.node.server,
            version=runner.state.version,
        )


def _state_file(folder: Path) -> Path:
    return folder / "state.json"


def _require_root() -> None:
    """Raises ProviderError for anybody but root: namespaces, mounts and control groups need it."""
    if os.geteuid() != 0:
        raise ProviderError("a node needs root: run sluice cluster up --node with sudo, or use --provider kind")
