"""The embedded provider: etcd, an API server and a controller manager as processes of this machine.

There is no node: objects, watches, admission, RBAC, garbage collection and namespaces are real, and pods stay pending.
Everything listens on 127.0.0.1 at ports that are free at the time, so that clusters run side by side.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sluice_devcluster import controlplane, gotools
from sluice_devcluster.certs import Leaf, write_pki
from sluice_devcluster.controlplane import COMPONENTS, ComponentSpec, Layout, Probe
from sluice_devcluster.errors import ComponentError, PortTakenError, ProviderError
from sluice_devcluster.files import locked, tail, write_atomic
from sluice_devcluster.kubeconfig import kubeconfig, read_cluster, write_kubeconfig
from sluice_devcluster.ports import free_port, is_free
from sluice_devcluster.processes import ProcessId, alive, find_owned, start, stop
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

_POLL_S = 0.05
_PORT_ATTEMPTS = 5
_PATIENCE_S = 3.0
"""An API server waits for its clients' watches to end, up to a minute; all that it knows is in etcd already."""


@dataclass(frozen=True, kw_only=True)
class _Running:
    """A component as the state file keeps it."""

    process: ProcessId
    ports: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """The state file: what was started, and whether all of it became ready."""

    complete: bool
    version: str
    """Kubernetes release that was started."""
    components: dict[str, _Running]

    def write(self, path: Path) -> None:
        components = {
            name: {"process": running.process.to_dict(), "ports": running.ports}
            for name, running in self.components.items()
        }
        content: dict[str, Any] = {"complete": self.complete, "version": self.version, "components": components}
        write_atomic(path, json.dumps(content, indent=2).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> "_Saved":
        """The file's content; nothing started where it is missing or damaged (the marker still finds processes)."""
        try:
            content = json.loads(path.read_text())
            components = {
                name: _Running(process=ProcessId.from_dict(entry["process"]), ports=dict(entry["ports"]))
                for name, entry in content["components"].items()
            }
            return cls(complete=bool(content["complete"]), version=str(content["version"]), components=components)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(complete=False, version="", components={})

    def ports(self) -> dict[str, int]:
        return {name: port for running in self.components.values() for name, port in running.ports.items()}


class EmbeddedProvider:
    """Runs control planes without Docker.

    ``up`` is safe to repeat. After a crash or a reboot it starts what was there with its data, certificates and, where
    they are still free, ports; an ``up`` that never completed is swept away and begun afresh.

    Args:
        home: folder of all clusters' folders.
        reporter: where progress is told.
        binaries: gives the folder of the built programs.
        tethered: let the kernel end the components when the thread that called ``up`` ends, for clusters that must not
            outlive a test run.
        now: the clock by which certificates are dated.
    """

    def __init__(
        self,
        *,
        home: Path | None = None,
        reporter: Reporter | None = None,
        binaries: Callable[[Reporter], Path] = gotools.kubernetes_binaries,
        tethered: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._home = home or clusters_home()
        self._reporter = reporter or default_reporter()
        self._binaries, self._tethered, self._now = binaries, tethered, now

    def up(self, name: str) -> Cluster:
        """See :class:`~sluice_devcluster.providers.Provider`."""
        binaries = self._binaries(self._reporter)
        with self._locked(name) as folder:
            write_record(folder, ProviderName.EMBEDDED)
            layout = Layout(folder=folder, binaries=binaries)
            saved = _Saved.read(_state_file(folder))
            if saved.complete and self._check(layout, saved)[0] is State.READY:
                return self._cluster(name, layout)
            self._sweep(folder, saved)
            try:
                if saved.complete:
                    self._restart(name, layout, saved)
                else:
                    self._begin(name, layout, {})
            except BaseException:
                # Also on Ctrl-C. The logs stay for whoever looks; the next up sweeps them.
                self._sweep(folder, _Saved.read(_state_file(folder)))
                raise
            return self._cluster(name, layout)

    def status(self, name: str) -> Status:
        """See :class:`~sluice_devcluster.providers.Provider`."""
        folder = self._home / check_name(name)
        saved = _Saved.read(_state_file(folder))
        layout = Layout(folder=folder, binaries=folder)
        if not folder.is_dir():
            return Status(name=name, provider=ProviderName.EMBEDDED, state=State.ABSENT)
        state, components = self._check(layout, saved)
        known = layout.kubeconfig.is_file()
        return Status(
            name=name,
            provider=ProviderName.EMBEDDED,
            state=state,
            kubeconfig=layout.kubeconfig if known else None,
            server=read_cluster(layout.kubeconfig)[1]["server"] if known else None,
            components=components,
        )

    def down(self, name: str) -> bool:
        """See :class:`~sluice_devcluster.providers.Provider`. Removes the cluster's data too."""
        if not (self._home / check_name(name)).is_dir():
            return False
        with self._locked(name) as folder:
            if not folder.is_dir():
                return False
            record = read_record(folder)
            if record is not None and record["provider"] != ProviderName.EMBEDDED:
                raise ProviderError(f"cluster {name!r} belongs to the provider {record['provider']!r}")
            with self._reporter.stage(f"stop cluster {name}"):
                self._sweep(folder, _Saved.read(_state_file(folder)))
                shutil.rmtree(folder)
        return True

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """The cluster's folder, with no other up or down of the same name under way."""
        folder = (self._home / check_name(name)).absolute()
        # Beside the folder, not in it: whoever waits for the lock must not hold one that down has removed.
        lock = self._home / f".{name}.lock"
        with locked(lock, waiting=lambda: self._reporter.note(f"waiting for another command on cluster {name}")):
            yield folder

    def _cluster(self, name: str, layout: Layout) -> Cluster:
        return Cluster(
            name=name,
            provider=ProviderName.EMBEDDED,
            kubeconfig=layout.kubeconfig,
            server=read_cluster(layout.kubeconfig)[1]["server"],
            version=_Saved.read(_state_file(layout.folder)).version,
        )

    def _check(self, layout: Layout, saved: _Saved) -> tuple[State, tuple[Component, ...]]:
        probe = Probe(layout.pki)
        components = []
        for spec in COMPONENTS:
            running = saved.components.get(spec.name)
            if running is None or not alive(running.process):
                detail = "was not started" if running is None else "does not run"
                components.append(Component(name=spec.name, healthy=False, detail=detail))
                continue
            port = running.ports[spec.ports[0]]
            healthy, detail = probe.get(spec, port)
            pid = running.process.pid
            components.append(Component(name=spec.name, healthy=healthy, detail=detail, pid=pid, port=port))
        if all(component.healthy for component in components) and saved.complete:
            return State.READY, tuple(components)
        running_now = any(component.pid is not None for component in components)
        return State.DEGRADED if running_now else State.STOPPED, tuple(components)

    def _sweep(self, folder: Path, saved: _Saved) -> None:
        """End every process of this cluster: the recorded ones, and any whose record was never written."""
        # The clients of the API server first, so that nothing retries against a server that is gone.
        for spec in reversed(COMPONENTS):
            if spec.name in saved.components:
                stop([saved.components[spec.name].process], patience_s=_PATIENCE_S)
        stop(find_owned(str(folder)), patience_s=_PATIENCE_S)

    def _restart(self, name: str, layout: Layout, saved: _Saved) -> None:
        self._reporter.note(f"cluster {name} was up but is not whole; starting it again with its data")
        try:
            self._start_all(name, layout, saved.ports())
        except ComponentError as error:
            self._reporter.note(f"its data cannot be used ({str(error).splitlines()[0]}); beginning afresh")
            self._sweep(layout.folder, _Saved.read(_state_file(layout.folder)))
            self._begin(name, layout, {})

    def _begin(self, name: str, layout: Layout, ports: dict[str, int]) -> None:
        """A new cluster: nothing of an earlier one by this name remains but the record of its provider."""
        for leftover in (layout.pki.folder, layout.data, layout.logs):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in (_state_file(layout.folder), layout.kubeconfig, layout.controller_manager_kubeconfig):
            leftover.unlink(missing_ok=True)
        with self._reporter.stage("create certificates"):
            write_pki(layout.pki.folder, service_ip=controlplane.SERVICE_IP, now=self._now())
        # etcd insists that nobody else can look into its data.
        layout.data.mkdir(mode=0o700)
        self._start_all(name, layout, ports)

    def _start_all(self, name: str, layout: Layout, wanted: dict[str, int]) -> None:
        started: dict[str, _Running] = {}
        version = gotools.kubernetes_tool().version
        state_file = _state_file(layout.folder)
        layout.logs.mkdir(mode=0o700, exist_ok=True)
        for spec in COMPONENTS:
            if spec.name == controlplane.CONTROLLER_MANAGER:
                self._write_kubeconfigs(name, layout, started[controlplane.API_SERVER].ports["kube-apiserver"])
            with self._reporter.stage(f"start {spec.name}"):
                self._start_component(spec, layout, wanted, started)
        with self._reporter.stage("wait for the first service account"):
            self._await_service_account(layout, started[controlplane.API_SERVER])
        _Saved(complete=True, version=version, components=started).write(state_file)

    def _start_component(
        self, spec: ComponentSpec, layout: Layout, wanted: dict[str, int], started: dict[str, _Running]
    ) -> None:
        """Start one component on free ports and wait until it is ready; adds it to ``started``.

        Between the choice of a port and the component's own bind anybody can take it, so that is tried again.
        """
        others = {port for running in started.values() for port in running.ports.values()}
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            ports: dict[str, int] = {}
            for port_name in spec.ports:
                port = wanted.get(port_name, 0) if attempt == 1 else 0
                if not port or port in others or not is_free(port):
                    port = free_port({*others, *ports.values(), *wanted.values()})
                ports[port_name] = port
            known = {name: port for running in started.values() for name, port in running.ports.items()} | ports
            log = layout.log(spec.name)
            offset = log.stat().st_size if log.exists() else 0
            process = start(
                [layout.binaries / spec.name, *spec.arguments(layout, known)],
                log=log,
                owner=str(layout.folder),
                tethered=self._tethered,
            )
            started[spec.name] = _Running(process=process, ports=ports)
            _Saved(complete=False, version="", components=started).write(_state_file(layout.folder))
            try:
                _await_ready(spec, process, ports[spec.ports[0]], Probe(layout.pki), log, offset)
                return
            except PortTakenError:
                stop([process])
                if attempt == _PORT_ATTEMPTS:
                    raise

    def _write_kubeconfigs(self, name: str, layout: Layout, port: int) -> None:
        pki = layout.pki
        for path, identity in (
            (layout.kubeconfig, "admin"),
            (layout.controller_manager_kubeconfig, "controller-manager"),
        ):
            leaf = Leaf(certificate=pki.certificate(identity).read_bytes(), key=pki.key(identity).read_bytes())
            config = kubeconfig(
                name=f"sluice-{name}",
                server=f"https://127.0.0.1:{port}",
                ca=pki.certificate("ca").read_bytes(),
                user=f"sluice-{name}-{identity}",
                credential=leaf,
            )
            write_kubeconfig(path, config)

    def _await_service_account(self, layout: Layout, server: _Running) -> None:
        """The controller manager is at work when it has made the ``default`` account: pods cannot exist before."""
        spec = next(spec for spec in COMPONENTS if spec.name == controlplane.API_SERVER)
        probe = Probe(layout.pki)
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        deadline = time.monotonic() + 60
        while not (answer := probe.get(spec, server.ports["kube-apiserver"], path))[0]:
            if time.monotonic() > deadline:
                last = tail(layout.log(controlplane.CONTROLLER_MANAGER))
                raise ComponentError(f"{controlplane.CONTROLLER_MANAGER} made no service account: {answer[1]}\n{last}")
            time.sleep(_POLL_S)


def _state_file(folder: Path) -> Path:
    return folder / "state.json"


def _await_ready(spec: ComponentSpec, process: ProcessId, port: int, probe: Probe, log: Path, offset: int) -> None:
    """Wait until the component answers.

    Raises:
        PortTakenError: it ended because one of its ports is taken.
        ComponentError: it ended, or did not become ready in time.
    """
    deadline = time.monotonic() + spec.timeout_s
    while True:
        healthy, detail = probe.get(spec, port)
        if not alive(process):
            with log.open("rb") as file:
                file.seek(offset)
                said = file.read().decode(errors="replace")
            kind = PortTakenError if "address already in use" in said else ComponentError
            raise kind(f"{spec.name} ended while it started; the end of {log}:\n{tail(log)}")
        if healthy:
            return
        if time.monotonic() > deadline:
            raise ComponentError(
                f"{spec.name} was not ready after {spec.timeout_s:.0f} s ({detail}); the end of {log}:\n{tail(log)}"
            )
        time.sleep(_POLL_S)
