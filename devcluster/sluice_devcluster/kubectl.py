"""Running kubectl: the built one, or, for clusters that are not ours, also the one on the PATH."""

import os
import shutil
import subprocess
from pathlib import Path

from sluice_devcluster import gotools
from sluice_devcluster.errors import ProviderError
from sluice_devcluster.reporting import Reporter


def find_kubectl(reporter: Reporter | None = None) -> Path:
    """The built kubectl if there is one, else the machine's, else one that is built now (minutes).

    Raises:
        BuildError: it had to be built, and that failed.
    """
    folder = gotools.built(gotools.kubernetes_tool())
    if folder is not None:
        return folder / "kubectl"
    found = shutil.which("kubectl")
    return Path(found) if found is not None else gotools.kubernetes_binaries(reporter) / "kubectl"


def run_kubectl(
    kubeconfig: Path,
    *arguments: str,
    stdin: str | None = None,
    check: bool = True,
    timeout_s: float = 60.0,
    kubectl: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run kubectl against the cluster of ``kubeconfig``, ``stdin`` as its input, with its output captured.

    Raises:
        ProviderError: with ``check``, kubectl ended with an error, whose text is in the message; or it took longer
            than ``timeout_s``.
    """
    command = [str(kubectl or find_kubectl()), *arguments]
    try:
        result = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=os.environ | {"KUBECONFIG": str(kubeconfig)},
        )
    except subprocess.TimeoutExpired as error:
        raise ProviderError(f"kubectl {' '.join(arguments)} took longer than {timeout_s:.0f} s") from error
    if check and result.returncode != 0:
        raise ProviderError(f"kubectl {' '.join(arguments)} ended with {result.returncode}: {result.stderr.strip()}")
    return result
