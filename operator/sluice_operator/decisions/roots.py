"""Where a namespace's objects may have their storage: the operator moves channels with one credential for all.

With `Settings.storage_roots` every place in storage that a spec names must lie below one of them, with the object's own
namespace in it; what is only read may lie below one of `Settings.shared_storage_roots` as well. Models by `hf://` and
`https://`, and built-in suites, are no places in the operator's storage.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from sluice_api.contracts.suites import is_builtin
from sluice_api.v1alpha1.common import SluiceObject
from sluice_operator.decisions.base import Settings

NAMESPACE = "{namespace}"
"""Stands for the object's namespace in a root."""
_STORAGE = ("s3://", "file://")
_ELSEWHERE = ("hf://", "http://", "https://")
_PLACES = frozenset({"uri", "summaryUri", "output", "root", "channels"})
"""Names of fields that hold a place, whatever they hold; every other text counts where it begins as one."""
_WRITTEN = frozenset({"output", "root"})
"""Names of fields below which a place is written to."""


def outside_roots(obj: SluiceObject, settings: Settings) -> str:
    """Return which field names a place where its namespace's objects may not be; empty if none does."""
    if not settings.storage_roots:
        return ""
    own = [root.replace(NAMESPACE, obj.namespace) for root in settings.storage_roots]
    shared = [*own, *settings.shared_storage_roots]
    for path, uri in _places(getattr(obj, "spec").to_wire(), ("spec",)):  # noqa: B009 - each kind declares its own spec
        written = not _WRITTEN.isdisjoint(path)
        if not any(_within(uri, root) for root in (own if written else shared)):
            return (
                f"{_in_words(path)} is {uri[:200]}, but objects of namespace {obj.namespace} "
                f"{'write' if written else 'read'} below {' or '.join(own if written else shared)} alone: "
                "name a place there, or have an admin add one (--storage-root)"
            )
    return ""


def input_outside_roots(obj: SluiceObject, job_input: Mapping[str, Any], settings: Settings) -> str:
    """Return which field of a job's input, in JSON form, names a place outside the roots; empty if none does.

    An input names more than its object's spec: adapters and reports of other objects, a channel's models.
    """
    if not settings.storage_roots:
        return ""
    allowed = [root.replace(NAMESPACE, obj.namespace) for root in settings.storage_roots]
    allowed += settings.shared_storage_roots
    for path, uri in _places(job_input, ("input",)):
        if uri.lower().startswith(_STORAGE) and not any(_within(uri, root) for root in allowed):
            return (
                f"{_in_words(path)} is {uri[:200]}, and objects of namespace {obj.namespace} have their places below "
                f"{' or '.join(allowed)} alone: look for who wrote it, in the results and channels that the spec names"
            )
    return ""


def _places(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the places in storage that a part of a spec names, each with its field's path."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _places(part, (*path, name))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from _places(part, (*path, place))
    elif isinstance(value, str):
        named = path[-1] in _PLACES and not is_builtin(value) and not value.startswith(_ELSEWHERE)
        if named or value.lower().startswith(_STORAGE):
            yield path, value


def _within(uri: str, root: str) -> bool:
    """Return whether a place is the root or below it, however it is written."""
    if uri.startswith("file://"):
        # The file store decodes what is percent-encoded.
        uri = unquote(uri)
    segments = uri.partition("://")[2].split("/")
    if "." in segments or ".." in segments or "\\" in uri:
        return False
    return f"{uri.rstrip('/')}/".startswith(root if root.endswith("/") else f"{root}/")


def _in_words(path: tuple[str | int, ...]) -> str:
    """Return a path as users write it, e.g. `spec.leaks.suites[0].uri`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
