"""Starting add-ons on a node or in a cluster of kind."""

import json
from collections.abc import Sequence

from sluice_devcluster.node.addons import Addon
from sluice_devcluster.node.objects import NAMESPACE, apply
from sluice_devcluster.node.runner import NodeRunner
from sluice_devcluster.reporting import Reporter


def start_addons(runner: NodeRunner, addons: Sequence[Addon], reporter: Reporter) -> None:
    """Start those of ``addons`` that are not well, one after the other, and record each that was.

    The objects of one that was started before are in the cluster still, so only its programs are started again.

    Raises:
        DevClusterError: an add-on could not be started; none of its programs is left running.
    """
    for addon in addons:
        known = addon.name in runner.state.addons
        if known and all(runner.health(service)[0] for service in addon.services):
            continue
        try:
            if not known:
                with reporter.stage(f"apply {addon.name}"):
                    _apply(runner, addon, reporter)
            runner.start(addon.services)
        except BaseException:
            runner.end(addon.services)
            raise
        if not known:
            runner.record(addons=(*runner.state.addons, addon.name))


def _apply(runner: NodeRunner, addon: Addon, reporter: Reporter) -> None:
    node = runner.node
    apply(node, json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))
    addon.prepare(node, runner.sandbox(), reporter)
    for manifest in addon.manifests(node, reporter):
        apply(node, manifest)
