"""Files that are either there in full or not at all, and where they are kept."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def cache_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where built tools are kept: ``$XDG_CACHE_HOME/sluice``, by default ``~/.cache/sluice``."""
    return _xdg(environ, "XDG_CACHE_HOME", ".cache") / "sluice"


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where clusters keep their state: ``$XDG_STATE_HOME/sluice``, by default ``~/.local/state/sluice``."""
    return _xdg(environ, "XDG_STATE_HOME", ".local/state") / "sluice"


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    # The base directory specification says that a relative value is to be ignored.
    value = Path(environ.get(variable, ""))
    return value if value.is_absolute() else Path.home() / default


def write_atomic(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content``: a reader sees the old bytes or the new ones, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (created when missing) while the block runs.

    The kernel releases it when the holder ends, however it ends. ``waiting`` is called once when somebody else holds
    the lock, before this call blocks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tail(path: Path, lines: int = 15) -> str:
    """The last ``lines`` lines of a text file, or an empty string when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
