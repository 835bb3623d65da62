"""Screenshots: found, checked, and named by the digest of their bytes.

A row names its screenshot `<sha256>.png`. The picture lies under that name in `_screens/` beside the versions of its
dataset, so that versions share it and nothing is sent twice. A picture that is gone, is no PNG, does not decode or
fails its checksums counts as missing, and is counted by reason. Detectors of private text do not look into pictures.
"""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

from sluice_traces.convert import Screens

MAX_SCREEN_BYTES = 32 * 1024 * 1024
"""Larger pictures are refused unread: a screenshot of 4K takes about eight mebibytes."""
MAX_SCREEN_PIXELS = 64 * 1024 * 1024
"""Larger pictures are refused before they are decoded: a small file may unpack to gigabytes."""


class ScreenProblem(StrEnum):
    """Why a screenshot cannot be used."""

    VANISHED = "vanished"
    """It was listed and is gone."""
    NOT_PNG = "not_png"
    """Its bytes are no PNG."""
    CORRUPT = "corrupt"
    """It is cut, fails a checksum, or does not decode."""
    UNREADABLE = "unreadable"
    """The storage refused to hand it out."""
    TOO_LARGE = "too_large"
    """More bytes or pixels than the limit."""


class Picture(NamedTuple):
    """One screenshot that can be used."""

    name: str
    """`<sha256>.png`, as rows call it."""
    path: str
    """Where it lies, below the source."""
    size: int
    """Bytes."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


def check_picture(path: str, data: bytes) -> Picture | ScreenProblem:
    """Decode a screenshot whole.

    Args:
        path: where it lies, below the source.
        data: its bytes.
    """
    from PIL import Image, UnidentifiedImageError

    if len(data) > MAX_SCREEN_BYTES:
        return ScreenProblem.TOO_LARGE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
                width, height = opened.size
                if width * height > MAX_SCREEN_PIXELS:
                    return ScreenProblem.TOO_LARGE
                # `verify` looks at every checksum and decodes nothing, `load` decodes and skips some checksums.
                opened.verify()
            with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
                opened.load()
    except UnidentifiedImageError:
        return ScreenProblem.NOT_PNG
    except Image.DecompressionBombError:
        return ScreenProblem.TOO_LARGE
    except Exception:  # noqa: BLE001 - decoders raise whatever a broken picture makes them stumble on
        return ScreenProblem.CORRUPT
    return Picture(hashlib.sha256(data).hexdigest() + ".png", path, len(data), width, height)


class CheckedScreens(Screens):
    """Screenshots of one run that are read and checked when a row asks for them."""

    problems: Counter[str]
    """Screenshots that could not be used, by reason."""
    _read: Callable[[str], bytes | ScreenProblem]
    _known: dict[int, Picture | ScreenProblem]

    def __init__(self, screens: Screens, read: Callable[[str], bytes | ScreenProblem]) -> None:
        """Check the screenshots of a run.

        Args:
            screens: what the listing has.
            read: bytes of the picture at a path below the source, or what is wrong with it.
        """
        Screens.__init__(self, screens.folder, screens.steps)
        # The listing's class is frozen; what is learnt while checking is not part of it.
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "_known", {})
        object.__setattr__(self, "problems", Counter())

    def image(self, step: int) -> str | None:
        """Name of a step's screenshot; None when there is none that can be used."""
        if step not in self.steps:
            return None
        if step not in self._known:
            path = f"{self.folder}/{step:04d}.png"
            data = self._read(path)
            found = data if isinstance(data, ScreenProblem) else check_picture(path, data)
            self._known[step] = found
            if isinstance(found, ScreenProblem):
                self.problems[found.value] += 1
        found = self._known[step]
        return found.name if isinstance(found, Picture) else None

    def pictures(self, names: Iterable[str | None]) -> tuple[Picture, ...]:
        """The pictures with these names, each once, in order of their names."""
        wanted = set(names)
        by_name = {found.name: found for found in self._known.values() if isinstance(found, Picture)}
        return tuple(by_name[name] for name in sorted(by_name) if name in wanted)
