"""Build every program that the scenarios' nodes run, before the first scenario's clock does.

python e2e/support/build_tools.py [--warm]

With `--warm` nothing is built: it ends with 0 where a bare node could start at once, as root, with everything built and
Debian's packages there, and says otherwise what is missing and ends with 1.
"""

import os
import subprocess
import sys

from sluice_devcluster import gotools
from sluice_devcluster.node.addons import known_addons
from sluice_devcluster.node.packages import PACKAGES, is_present, missing_packages
from sluice_devcluster.reporting import default_reporter

PROBE = [
    *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "sh", "-ec"),
    "mount -t tmpfs probe /mnt; ip link add probe0 type bridge; "
    "for root in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do "
    "mkdir $root/sluice-probe-$$; rmdir $root/sluice-probe-$$; done",
]
"""Does for a moment what a node does: not every root may."""


def missing() -> list[str]:
    """What a bare node lacks to start at once."""
    lacking = [] if os.geteuid() == 0 else ["root"]
    lacking += missing_packages(PACKAGES, is_present)
    if not lacking and subprocess.run(PROBE, check=False, capture_output=True).returncode:
        lacking.append("the right to make namespaces and control groups")
    tools = (gotools.kubernetes_tool(), gotools.pause_tool(), gotools.coredns_tool())
    return lacking + [f"a built {tool.name}" for tool in tools if gotools.built(tool) is None]


def main() -> None:
    """Build what is not built yet, one after the other."""
    if sys.argv[1:] == ["--warm"]:
        if lacking := missing():
            sys.exit(f"no smoke test on a node: {', '.join(lacking)} missing")
        return
    reporter = default_reporter()
    gotools.kubernetes_binaries(reporter)
    for tool in (gotools.pause_tool(), gotools.coredns_tool(), gotools.kustomize_tool(), gotools.helm_tool()):
        gotools.build(tool, reporter)
    for addon in known_addons().values():
        addon.tools(reporter)


if __name__ == "__main__":
    main()
