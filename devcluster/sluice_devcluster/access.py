"""Kubeconfigs for identities that may do less than everything."""

from datetime import timedelta
from pathlib import Path

from sluice_devcluster.kubeconfig import kubeconfig, read_ca, read_cluster, write_kubeconfig
from sluice_devcluster.kubectl import run_kubectl


def service_account_kubeconfig(
    admin: Path,
    namespace: str,
    name: str,
    destination: Path,
    *,
    lifetime: timedelta = timedelta(hours=12),
) -> Path:
    """Write a kubeconfig by which its user is exactly the service account ``namespace/name``, and nothing more.

    The token comes from the TokenRequest API, is bound to the account (deleting the account ends it), and expires.

    Args:
        admin: kubeconfig of somebody who may create tokens of the account.
        namespace: the account's namespace, which is also the context's default.
        name: the account, which must exist.
        destination: file to write, readable by the owner alone.
        lifetime: of the token, at least ten minutes, the API's lower bound; the server may grant less.

    Returns:
        ``destination``.

    Raises:
        ProviderError: the account does not exist, or the administrator's kubeconfig does not work.
    """
    if lifetime < timedelta(minutes=10):
        raise ValueError(f"lifetime: {lifetime} is under the API's minimum of 10 minutes")
    seconds = int(lifetime.total_seconds())
    token = run_kubectl(admin, "create", "token", name, f"--namespace={namespace}", f"--duration={seconds}s")
    cluster, entry = read_cluster(admin)
    config = kubeconfig(
        name=cluster,
        server=entry["server"],
        ca=read_ca(admin, entry),
        user=f"system:serviceaccount:{namespace}:{name}",
        credential=token.stdout.strip(),
        namespace=namespace,
    )
    write_kubeconfig(destination, config)
    return destination
