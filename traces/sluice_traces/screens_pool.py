"""The screenshots of a dataset, beside its versions: each sent once, checked against its name, before a version."""

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sluice_api.contracts.dataset import SCREENS_FOLDER
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts import ConflictError, NotFoundError, Store, join
from sluice_artifacts.reporting import WorkerError
from sluice_traces.labeller import patiently
from sluice_traces.spool import Spool

_THREADS = 16
_WINDOW = 4 * _THREADS


def screens_uri(dataset_uri: str) -> str:
    """Prefix of a dataset's screenshots."""
    return join(dataset_uri, SCREENS_FOLDER + "/")


def pool_names(store: Store, dataset_uri: str) -> frozenset[str]:
    """Names of the screenshots that are there.

    Raises:
        ArtifactError: the storage failed.
    """
    return frozenset(found.uri.rpartition("/")[2] for found in store.list(screens_uri(dataset_uri)))


def send_screens(spool: Spool, source: Store, source_uri: str, target: Store, dataset_uri: str) -> int:
    """Send the screenshots that rows refer to and that are not there yet; return how many.

    Raises:
        WorkerError: `Storage` when one has changed since it was checked: the build is repeated.
        ArtifactError: the storage failed.
    """
    if not spool.has_pictures():
        return 0
    known = pool_names(target, dataset_uri)

    def send(picture: tuple[str, str, int]) -> None:
        name, path, _ = picture
        uri = join(source_uri, path)
        try:
            data = patiently(lambda: source.read(uri))
        except NotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() + ".png" != name:
            raise WorkerError(FailureClass.STORAGE, f"{uri} changed while it was used: the build is repeated")
        try:
            patiently(lambda: target.write(join(screens_uri(dataset_uri), name), data, if_absent=True))
        except ConflictError:
            # Somebody else sent the same bytes: the name is their digest.
            return

    sent = 0
    missing: Iterator[tuple[str, str, int]] = (each for each in spool.used_pictures() if each[0] not in known)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sluice-screens") as pool:
        while window := list(itertools.islice(missing, _WINDOW)):
            sent += len(list(pool.map(send, window)))
    return sent
