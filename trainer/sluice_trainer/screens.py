"""The screenshots that rows name: fetched beside a dataset's versions, held against their names, decoded.

A row names its screenshot `<sha256>.png`; it lies in `_screens/` beside the versions of its dataset. What is fetched is
kept in a folder between attempts, and read again only where its bytes still have the digest that is its name.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sluice_api.contracts.dataset import SCREENS_FOLDER
from sluice_artifacts import CorruptError, NotFoundError, Store, join, open_store
from sluice_traces.screens import ScreenProblem, check_picture

THREADS = 8
"""Screenshots that are fetched at a time."""
_NAME = re.compile(r"[0-9a-f]{64}\.png")
_PROBLEMS = {
    ScreenProblem.NOT_PNG: "is no PNG",
    ScreenProblem.CORRUPT: "is cut or damaged",
    ScreenProblem.TOO_LARGE: "is larger than any screenshot",
}


class ScreenError(Exception):
    """A screenshot that cannot be used; the message says which and why."""


class Screens:
    """Screenshots of one dataset."""

    def __init__(self, dataset_uri: str, folder: Path, store: Store | None = None) -> None:
        """Read below a dataset's prefix.

        Args:
            dataset_uri: prefix of a version; the screenshots lie beside it.
            folder: keeps what was fetched.
            store: where the dataset lies; None opens the URI's.
        """
        self._prefix = join(dataset_uri.rstrip("/").rpartition("/")[0], SCREENS_FOLDER)
        self._folder = folder
        self._store = store or open_store(dataset_uri)
        self._sizes: dict[str, tuple[int, int] | ScreenError] = {}

    def fetch(self, names: Iterable[str], told: Callable[[int, int], None] | None = None) -> None:
        """Have screenshots at hand, several at a time; what is wrong with one is said when it is asked for.

        Args:
            names: their names.
            told: hears how many of how many are at hand; it may raise, to have the rest left.

        Raises:
            ArtifactError: the storage cannot be asked.
        """
        wanted = sorted(set(names) - set(self._sizes))
        self._folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="screens") as pool:
            try:
                for done, (name, size) in enumerate(zip(wanted, pool.map(self._checked, wanted), strict=True), start=1):
                    self._sizes[name] = size
                    if told is not None:
                        told(done, len(wanted))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of a screenshot, in pixels.

        Raises:
            ScreenError: it is missing or damaged, does not decode, or has no name of a screenshot.
            ArtifactError: the storage cannot be asked.
        """
        if name not in self._sizes:
            self.fetch([name])
        found = self._sizes[name]
        if isinstance(found, ScreenError):
            raise found
        return found

    def picture(self, name: str) -> Any:
        """A screenshot as a PIL image, RGB.

        Raises:
            ScreenError: as `size`.
        """
        from PIL import Image

        self.size(name)
        try:
            with Image.open(self._folder / name, formats=["PNG"]) as opened:
                return opened.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise ScreenError(f"screenshot {name} was damaged after it was fetched: {error}") from error

    def _checked(self, name: str) -> tuple[int, int] | ScreenError:
        if not _NAME.fullmatch(name):
            return ScreenError(f"{name!r} names no screenshot of a dataset version (`<sha256>.png`)")
        path = self._folder / name
        digest = name.removesuffix(".png")
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            try:
                self._store.download(join(self._prefix, name), path, sha256=digest)
            except NotFoundError:
                return ScreenError(f"screenshot {name} is missing in {self._prefix}: build the dataset again")
            except CorruptError:
                return ScreenError(f"screenshot {name} in {self._prefix} is not what its name says: delete and rebuild")
        found = check_picture(name, path.read_bytes())
        if isinstance(found, ScreenProblem):
            return ScreenError(f"screenshot {name} {_PROBLEMS.get(found, 'cannot be used')}")
        return found.width, found.height
