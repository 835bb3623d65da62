"""Build every program that the scenarios' nodes run, before the first scenario's clock does.

python e2e/support/build_tools.py
"""

from sluice_devcluster import gotools
from sluice_devcluster.node.addons import known_addons
from sluice_devcluster.reporting import default_reporter


def main() -> None:
    """Build what is not built yet, one after the other."""
    reporter = default_reporter()
    gotools.kubernetes_binaries(reporter)
    for tool in (gotools.pause_tool(), gotools.coredns_tool(), gotools.kustomize_tool(), gotools.helm_tool()):
        gotools.build(tool, reporter)
    for addon in known_addons().values():
        addon.tools(reporter)


if __name__ == "__main__":
    main()
