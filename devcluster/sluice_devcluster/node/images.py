"""The pause image, and bringing images into a node that has no registry."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.node.layout import CONTAINERD_SOCKET
from sluice_devcluster.node.sandbox import Sandbox

PAUSE_IMAGE = "localhost/sluice-pause:1"
"""Holds a pod's network namespace; never pulled."""

_CTR = ("ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io")


def pause_archive(program: bytes) -> bytes:
    """The archive of :data:`PAUSE_IMAGE`; one program gives the same bytes."""
    return program_archive(program, path="pause", image=PAUSE_IMAGE)


def program_archive(program: bytes, *, path: str, image: str) -> bytes:
    """An image archive (``docker save``'s layout) whose only file is a static program, run by an unprivileged user.

    Args:
        program: its bytes.
        path: where it is in the image, without the leading slash.
        image: name and tag.
    """
    layer = _tar({path: program}, mode=0o755)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{path}"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [image], "Layers": [f"{digest}.tar"]}]).encode()
    return _tar({f"{digest}.tar": layer, name: config, "manifest.json": manifest}, mode=0o644)


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def import_archive(sandbox: Sandbox, archive: Path | bytes, *, timeout_s: float = 900.0) -> list[str]:
    """Bring an image archive (``docker save``'s or the OCI layout, as a tar file) into the node.

    Returns:
        The images' names as pods may write them.

    Raises:
        ProviderError: the file is missing.
        ComponentError: containerd refuses it.
    """
    if isinstance(archive, bytes):
        said = sandbox.run((*_CTR, "images", "import", "-"), stdin=archive, timeout_s=timeout_s)
    else:
        if not archive.is_file():
            raise ProviderError(f"{archive} is not a file: give image archives, as buildah push or docker save write")
        said = sandbox.run((*_CTR, "images", "import", str(archive.absolute())), timeout_s=timeout_s)
    return parse_imported(said)


def parse_imported(said: str) -> list[str]:
    """The images' names in what ``ctr images import`` prints."""
    return [line.split(" ")[1] for line in said.splitlines() if line.startswith("unpacking ")]


def list_images(sandbox: Sandbox) -> list[str]:
    """The names of the node's images, without the runtime's own digests of them."""
    said = sandbox.run((*_CTR, "images", "list", "--quiet"))
    return sorted(line for line in said.splitlines() if line and not line.startswith("sha256:") and "@" not in line)
