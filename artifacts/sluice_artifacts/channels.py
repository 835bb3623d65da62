"""Channels: small named pointers to weights, moved by compare-and-set only."""

from pydantic import ValidationError

from sluice_api.contracts.models import Channel
from sluice_artifacts.digests import canonical_json
from sluice_artifacts.errors import ConflictError, CorruptError, NotFoundError
from sluice_artifacts.store import check_relative, join, open_store


def channel_uri(root: str, name: str) -> str:
    """Return where a channel lies: `<root>/channels/<name>.json`.

    Raises:
        ValueError: the name is not one plain path segment.
    """
    if "/" in name:
        raise ValueError(f"channel name {name!r} holds a slash")
    return join(root, "channels", f"{check_relative(name)}.json")


def read_channel(root: str, name: str) -> tuple[Channel, str] | None:
    """Return a channel and the etag to move it with, or None when it does not exist yet.

    Raises:
        CorruptError: the object is no channel, or another one's.
        ArtifactError: the storage failed. A missing bucket counts as such: it is not a missing channel.
    """
    uri = channel_uri(root, name)
    store = open_store(uri)
    try:
        data, etag = store.read_with_etag(uri)
    except NotFoundError as error:
        if error.uri != uri:
            raise
        return None
    try:
        channel = Channel.model_validate_json(data)
    except ValidationError as error:
        raise CorruptError(uri, f"is no channel ({error.error_count()} invalid fields); restore or delete it") from None
    if channel.name != name:
        raise CorruptError(uri, f"names itself {channel.name!r}; restore or delete it")
    return channel, etag


def move_channel(root: str, channel: Channel, *, etag: str | None) -> str:
    """Point a channel somewhere else and return its new etag.

    `etag` is what `read_channel` gave; None creates a channel that must not exist yet.

    Raises:
        ConflictError: somebody else moved, created or deleted it meanwhile. Read it again and decide anew.
        ArtifactError: the storage failed.
    """
    uri = channel_uri(root, channel.name)
    data = canonical_json(channel)
    try:
        return open_store(uri).write(uri, data, if_absent=etag is None, if_match=etag)
    except ConflictError as error:
        raise ConflictError(uri, f"channel {channel.name!r} was moved by another writer: {error.message}") from error
