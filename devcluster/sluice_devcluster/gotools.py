"""Builds the upstream Go programs that the cluster needs, once, into a cache outside the checkout.

A tool's folder is ``<cache>/<tool>/<version>-<hash>/``, where the hash covers the sources that decide what comes out,
so that a changed pin is another folder and an unchanged one is never built twice. A build happens in a scratch folder
under a file lock and is renamed when it is complete: a folder that exists is whole, and of two callers at once one
builds and the other waits.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from sluice_devcluster import versions
from sluice_devcluster.errors import BuildError
from sluice_devcluster.files import cache_home, locked
from sluice_devcluster.gomodules import GoModule, download
from sluice_devcluster.gotoolchain import Go, find_go, parse_release
from sluice_devcluster.reporting import Reporter, Stage, default_reporter

KUBERNETES_PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
"""Names under which the multi-call binary is installed."""

ARGOCD_PROGRAMS = ("argocd-application-controller", "argocd-repo-server", "argocd-cmp-server", "argocd-server")
"""Further names under which Argo CD's binary is installed."""

_FLAGS = ("-p", "2", "-trimpath")
_RECIPE = "1"
"""Part of every hash: raise it when the flags change what is built."""


@dataclass(frozen=True, kw_only=True)
class GoTool:
    """A program to build.

    ``source`` is the folder of a module of our own or a pinned upstream release; ``package`` is relative to it.
    ``stamps`` are the linker's ``-X`` values. ``links`` are further names of the program, as symbolic links beside it.
    """

    name: str
    version: str
    source: Path | GoModule
    package: str = "."
    stamps: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    def key(self) -> str:
        """``<version>-<hash>``: the name of the folder that a build of exactly these sources is kept in."""
        digest = hashlib.sha256()
        for part in (_RECIPE, self.name, self.package, *self.stamps, "|", *self.links, "|"):
            digest.update(part.encode() + b"\0")
        if isinstance(self.source, GoModule):
            digest.update(f"{self.source.name} {self.source.sum}".encode())
        else:
            for path in _sources(self.source):
                digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return f"{self.version}-{digest.hexdigest()[:12]}"


def _sources(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix == ".go" or path.name in ("go.mod", "go.sum"))
    if not (folder / "go.mod").is_file():
        raise BuildError(f"{folder} holds no go.mod: the development cluster's Go module is missing from this install")
    return files


def kubernetes_tool(folder: Path | None = None) -> GoTool:
    """The multi-call binary of etcd, the control plane, the node agents and kubectl.

    Its version is that of ``k8s.io/kubernetes`` in the module's ``go.mod``, the one place where it is written.
    """
    folder = folder or _own_module("kubernetes")
    version = _required_release(folder, "k8s.io/kubernetes")
    major, minor = version.removeprefix("v").split(".")[:2]
    stamps = tuple(
        f"{package}.{variable}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for variable, value in (("gitVersion", version), ("gitMajor", major), ("gitMinor", minor))
    )
    return GoTool(name="kubernetes", version=version, source=folder, stamps=stamps, links=KUBERNETES_PROGRAMS)


def _own_module(name: str) -> Path:
    """The folder of a Go module of ours: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    return next((f for f in (package.parent / name, package / name) if f.is_dir()), package)


def _required_release(folder: Path, module: str) -> str:
    """The release of ``module`` that the ``go.mod`` in ``folder`` requires, such as ``v1.36.3``.

    Raises:
        BuildError: there is no such file, or it requires no release of the module.
    """
    try:
        text = (folder / "go.mod").read_text()
    except OSError as error:
        raise BuildError(f"cannot read the Go module that requires {module}: {error}") from error
    match = re.search(rf"^\s*{re.escape(module)} (v\d+\.\d+\.\S+)", text, re.MULTILINE)
    if match is None:
        raise BuildError(f"{folder / 'go.mod'} requires no release of {module}")
    return match[1]


def pause_tool() -> GoTool:
    """The program of the image that holds a pod's namespaces."""
    return GoTool(name="pause", version="v1", source=_own_module("pause"))


def coredns_tool() -> GoTool:
    """The node's DNS server."""
    return GoTool(name="coredns", version=versions.COREDNS.version, source=versions.COREDNS)


def kuberay_tool() -> GoTool:
    """KubeRay's operator."""
    return GoTool(name="ray-operator", version=versions.KUBERAY.version, source=versions.KUBERAY)


def traefik_tool() -> GoTool:
    """The data plane behind the Gateway API; its forks of three libraries are named in the module's ``go.mod``."""
    folder = _own_module("traefik")
    module = "github.com/traefik/traefik/v3"
    version = _required_release(folder, module)
    stamps = (f"{module}/pkg/version.Version={version.removeprefix('v')}",)
    return GoTool(name="traefik", version=version, source=folder, package=f"{module}/cmd/traefik", stamps=stamps)


def argocd_tool() -> GoTool:
    """Argo CD's command, controllers and servers in one binary, by the name it is called by."""
    folder = _own_module("argocd")
    module = "github.com/argoproj/argo-cd/v3"
    version = _required_release(folder, module)
    return GoTool(
        name="argocd",
        version=version,
        source=folder,
        package=f"{module}/cmd",
        stamps=(f"{module}/common.version={version.removeprefix('v')}",),
        links=ARGOCD_PROGRAMS,
    )


def kustomize_tool() -> GoTool:
    """What Argo CD's repository server renders with."""
    return GoTool(name="kustomize", version=versions.KUSTOMIZE.version, source=versions.KUSTOMIZE)


def versitygw_tool() -> GoTool:
    """The S3 server of the tests and the demo."""
    module = versions.VERSITYGW
    return GoTool(
        name="versitygw",
        version=module.version,
        source=module,
        package="./cmd/versitygw",
        stamps=(f"main.Version={module.version}",),
    )


def helm_tool() -> GoTool:
    """The client of the chart."""
    module = versions.HELM
    return GoTool(
        name="helm",
        version=module.version,
        source=module,
        package="./cmd/helm",
        stamps=(f"helm.sh/helm/v3/internal/version.version={module.version}",),
    )


def kubernetes_binaries(reporter: Reporter | None = None) -> Path:
    """The folder that holds etcd, the Kubernetes components and kubectl, built when it is not there yet.

    Raises:
        BuildError: the build failed.
    """
    return build(kubernetes_tool(), reporter)


def versitygw(reporter: Reporter | None = None) -> Path:
    """The S3 server's program, built when it is not there yet.

    Raises:
        BuildError: the build failed.
    """
    return build(versitygw_tool(), reporter) / "versitygw"


def helm(reporter: Reporter | None = None) -> Path:
    """Helm's program, built when it is not there yet.

    Raises:
        BuildError: the build failed.
    """
    return build(helm_tool(), reporter) / "helm"


def kuberay_crds(reporter: Reporter | None = None) -> list[Path]:
    """The manifests of KubeRay's custom resource definitions; apply them server-side, they are large."""
    return _manifests(versions.KUBERAY, "config/crd/bases", "ray.io_*.yaml", reporter)


def kuberay_role(reporter: Reporter | None = None) -> Path:
    """The manifest of the ClusterRole ``kuberay-operator``."""
    return _manifests(versions.KUBERAY, "config/rbac", "role.yaml", reporter)[0]


def argocd_crds(reporter: Reporter | None = None) -> list[Path]:
    """The manifests of Application, ApplicationSet and AppProject."""
    return _manifests(versions.ARGOCD, "manifests/crds", "*-crd.yaml", reporter)


def argocd_role(reporter: Reporter | None = None) -> Path:
    """The manifest of the application controller's ClusterRole."""
    folder = "manifests/cluster-rbac/application-controller"
    return _manifests(versions.ARGOCD, folder, "*-clusterrole.yaml", reporter)[0]


def argocd_scripts(reporter: Reporter | None = None) -> list[Path]:
    """Scripts that the repository server calls by name; Argo CD's own image has them on its PATH."""
    return _manifests(versions.ARGOCD, "hack", "git-*.sh", reporter)


def argocd_settings(reporter: Reporter | None = None) -> list[Path]:
    """The manifests of Argo CD's own ConfigMaps and Secret."""
    return _manifests(versions.ARGOCD, "manifests/base/config", "argocd-*.yaml", reporter)


def prometheus_operator_crds(reporter: Reporter | None = None) -> list[Path]:
    """The definitions of the Prometheus operator's kinds that the chart has; apply them server-side."""
    folder = "example/prometheus-operator-crd"
    return [
        path
        for kind in ("podmonitors", "prometheusrules", "servicemonitors")
        for path in _manifests(versions.PROMETHEUS_OPERATOR, folder, f"monitoring.coreos.com_{kind}.yaml", reporter)
    ]


def gateway_api_crds(reporter: Reporter | None = None) -> list[Path]:
    """The manifests of the Gateway API's standard channel; apply them server-side."""
    return _manifests(versions.GATEWAY_API, "config/crd/standard", "gateway.networking.k8s.io_*.yaml", reporter)


def _manifests(module: GoModule, folder: str, pattern: str, reporter: Reporter | None) -> list[Path]:
    go = find_go((1, 21, 0), reporter or default_reporter())
    found = sorted((download(module, go) / folder).glob(pattern))
    if not found:
        raise BuildError(f"{module.name} holds no {folder}/{pattern}")
    return found


def built(tool: GoTool, cache: Path | None = None) -> Path | None:
    """The tool's folder when it has been built, without building it."""
    folder = (cache or cache_home()) / tool.name / tool.key()
    return folder if folder.is_dir() else None


def build(tool: GoTool, reporter: Reporter | None = None, *, cache: Path | None = None) -> Path:
    """The folder that holds ``tool`` and its links.

    Raises:
        BuildError: no Go, no module, or a compiler error, whose last lines the text ends with.
    """
    home = (cache or cache_home()) / tool.name
    folder = home / tool.key()
    if folder.is_dir():
        return folder
    reporter = reporter or default_reporter()
    with locked(home / ".lock", waiting=lambda: reporter.note(f"waiting for another build of {tool.name} to end")):
        if folder.is_dir():
            return folder
        for abandoned in home.glob(".build-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".build-", ignore_cleanup_errors=True) as scratch:
            output = Path(scratch) / folder.name
            output.mkdir()
            _compile(tool, output / tool.name, reporter)
            for link in tool.links:
                (output / link).symlink_to(tool.name)
            output.rename(folder)
    return folder


def _compile(tool: GoTool, output: Path, reporter: Reporter) -> None:
    go = find_go(_minimum_release(tool), reporter)
    if isinstance(tool.source, GoModule):
        with reporter.stage(f"download {tool.name} {tool.version}"):
            source = download(tool.source, go)
    else:
        source = tool.source
    with reporter.stage(f"download the modules of {tool.name} {tool.version}") as stage:
        packages = _run_go(go, ["list", "-deps", tool.package], source, stage)
    linker = " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in tool.stamps)])
    arguments = ["build", "-v", *_FLAGS, "-ldflags", linker, "-o", str(output), tool.package]
    with reporter.stage(f"compile {tool.name} {tool.version}") as stage:
        stage.update("packages", done=0, total=len(packages))
        _run_go(go, arguments, source, stage, total=len(packages))


def _minimum_release(tool: GoTool) -> tuple[int, int, int]:
    if isinstance(tool.source, GoModule):
        return (1, 26, 0)
    match = re.search(r"^go (\S+)", (tool.source / "go.mod").read_text(), re.MULTILINE)
    return (parse_release(f"go{match[1]}") if match else None) or (1, 26, 0)


def _run_go(go: Go, arguments: list[str], source: Path, stage: Stage, total: int | None = None) -> list[str]:
    """Run the Go command, show what it says on the stage, and return the lines of its standard output.

    Standard error carries one ``go: downloading`` line a module, one import path a compiled package, and the errors.
    """
    with (
        tempfile.TemporaryFile("w+") as standard_output,
        subprocess.Popen(
            [go.command, *arguments],
            cwd=source,
            env=go.environment(),
            stdin=subprocess.DEVNULL,
            stdout=standard_output,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stderr is not None
        said: deque[str] = deque(maxlen=40)
        downloads = compiled = 0
        try:
            for line in map(str.rstrip, process.stderr):
                if line.startswith("go: downloading "):
                    downloads += 1
                    stage.update("modules", done=downloads)
                elif total is not None and re.fullmatch(r"[\w.~/-]+", line):
                    compiled += 1
                    stage.update("packages", done=compiled, total=total)
                else:
                    said.append(line)
            process.wait()
        except BaseException:
            _end_group(process)
            raise
        if process.returncode != 0:
            command = f"go {arguments[0]}"
            raise BuildError(f"{command} in {source} ended with {process.returncode}:\n" + "\n".join(said))
        standard_output.seek(0)
        return standard_output.read().split()


def _end_group(process: subprocess.Popen[str], patience_s: float = 5.0) -> None:
    """End the Go command and the compilers that it started; it leads a process group of its own."""
    deadline = time.monotonic() + patience_s
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue
