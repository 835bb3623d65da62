"""One performance of the demo: everything up, the story, the closing table, everything down again."""

import fcntl
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO

from rich.panel import Panel

from sluice_artifacts import ArtifactError
from sluice_cli.demo.figures import verified_table
from sluice_cli.demo.screen import Screen
from sluice_cli.demo.story import Story
from sluice_cli.demo.watching import StoryError, Watcher
from sluice_cli.local.example import ExampleError
from sluice_cli.local.install import InstallError
from sluice_cli.local.layout import NAMESPACE, CheckoutNotFound, Layout
from sluice_cli.local.stack import Stack, StackError, down
from sluice_devcluster.errors import DevClusterError
from sluice_devcluster.ports import free_port
from sluice_devcluster.providers import ProviderName, clusters_home, make_provider
from sluice_devcluster.reporting import Reporter, default_reporter

EXPECTED = (StoryError, StackError, InstallError, ExampleError, ArtifactError, DevClusterError, CheckoutNotFound)
"""Failures that have their explanation in their message."""


def perform(name: str, *, keep: bool, plain: bool) -> int:
    """Run the demo; 0 when everything went as it must, 1 when not.

    Everything is taken down at the end, on failure and on Ctrl-C as well, unless `keep` was asked for and all went
    well.
    """
    reporter = default_reporter()
    try:
        lock = _only_one(name)
    except BlockingIOError:
        print(f"sluice demo: a demo named {name} is running; give --name for another one", file=sys.stderr)
        return 2
    root = Path(tempfile.mkdtemp(prefix="sluice-demo-"))
    layout = Layout(name=name, uri=f"file://{root}/", agent_port=free_port([]))
    kept = False
    try:
        with Screen(plain=plain) as screen:
            kept = _play(layout, root, reporter, screen, keep=keep)
        return 0
    except EXPECTED as error:
        logs = Path(tempfile.mkdtemp(prefix="sluice-demo-logs-"))
        if layout.logs.is_dir():
            shutil.copytree(layout.logs, logs, dirs_exist_ok=True)
        print(f"\nsluice demo: {error}\nThe logs of its processes are in {logs}", file=sys.stderr)
        return 1
    finally:
        if not kept:
            _clear(layout, root, reporter)
        lock.close()


def _only_one(name: str) -> IO[str]:
    """Hold the name for this process. Raises BlockingIOError when another demo has it."""
    folder = clusters_home().parent
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / f"demo-{name}.lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise
    return lock


def _play(layout: Layout, root: Path, reporter: Reporter, screen: Screen, *, keep: bool) -> bool:
    """Bring everything up and tell the story; True when it is to stay."""
    _clear(layout, root, reporter)
    root.mkdir(exist_ok=True)
    cluster = make_provider(ProviderName.EMBEDDED, kubeconfig=None, reporter=reporter).up(layout.name)
    stack = Stack(cluster=cluster, layout=layout, reporter=reporter)
    stack.up()
    watcher = Watcher(cluster.kubeconfig, NAMESPACE)
    story = Story(stack=stack, screen=screen, watcher=watcher)
    story.tell()
    screen.say("")
    screen.say(verified_table(watcher.snapshot))
    if keep:
        screen.say(_look_around(stack, root))
    return keep


def _look_around(stack: Stack, root: Path) -> Panel:
    """Return the lines with which a user looks around."""
    lines = (
        f"export KUBECONFIG={stack.cluster.kubeconfig}",
        f"export PATH={stack.kubectl.parent}:{Path(sys.executable).parent}:$PATH",
        "kubectl get sluice",
        "kubectl sluice rollout get storefront",
        "sluice dashboard                     # every lineage, live",
        "kubectl describe promotionscorecard storefront-damaged",
        "kubectl get events --sort-by=.lastTimestamp",
        f"ls {root}",
        f"sluice cluster down --name {stack.cluster.name}    # when you have seen enough",
    )
    return Panel("\n".join(lines), title="everything is still running", title_align="left")


def _clear(layout: Layout, root: Path, reporter: Reporter) -> None:
    """Take everything down, what an earlier performance of the same name left included."""
    # A second Ctrl-C would leave half of it running; this takes seconds.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with reporter.stage("clean up"):
        down(layout)
        make_provider(ProviderName.EMBEDDED, kubeconfig=None, reporter=reporter).down(layout.name)
        shutil.rmtree(root, ignore_errors=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
