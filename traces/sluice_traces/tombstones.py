"""What was asked to be forgotten, kept beside the versions of a dataset so that no later build brings it back."""

from functools import cached_property

from pydantic import Field

from sluice_api.contracts.base import Contract
from sluice_api.contracts.trace import SHARED_TENANT_FOLDER
from sluice_artifacts import ConflictError, CorruptError, NotFoundError, canonical_json, join, open_store

TOMBSTONES_FILE = "tombstones.json"
"""Below the dataset's prefix."""
_ATTEMPTS = 10


class Forgotten(Contract):
    """One run, or all runs of one tenant."""

    tenant_id: str
    """The tenant; empty for shared runs."""
    run_id: str | None = None
    """The run; None for all of the tenant's."""
    at: str = ""
    """When it was asked for, RFC 3339, UTC."""


class Tombstones(Contract):
    """All that was forgotten of one dataset."""

    schema_version: int = 1
    """Version of this document."""
    forgotten: list[Forgotten] = Field(default_factory=list)
    """What, in the order in which it was asked for."""
    replacements: dict[str, str] = Field(default_factory=dict)
    """Digest of a version that held forgotten rows to the digest of the one that took its place."""

    def covers(self, tenant_id: str, run_id: str) -> bool:
        """Whether a run was forgotten."""
        tenant = _tenant(tenant_id)
        return (tenant, run_id) in self.names or (tenant, None) in self.names

    @cached_property
    def names(self) -> frozenset[tuple[str, str | None]]:
        """Tenant and run of all that was forgotten."""
        return frozenset((_tenant(each.tenant_id), each.run_id) for each in self.forgotten)

    def current(self, digest: str) -> str:
        """The version that stands for a version now."""
        seen = set[str]()
        while digest in self.replacements and digest not in seen:
            seen.add(digest)
            digest = self.replacements[digest]
        return digest

    def extended(self, added: list[Forgotten], replacements: dict[str, str]) -> "Tombstones":
        """These tombstones and further ones; what is known already is not repeated."""
        new = [each for each in added if (_tenant(each.tenant_id), each.run_id) not in self.names]
        return Tombstones(forgotten=[*self.forgotten, *new], replacements={**self.replacements, **replacements})


def _tenant(tenant_id: str) -> str:
    """The tenant; the folder of shared runs, under whose name people know them, stands for none."""
    return "" if tenant_id == SHARED_TENANT_FOLDER else tenant_id


def read_tombstones(dataset_uri: str) -> tuple[Tombstones, str | None]:
    """The tombstones of a dataset and the etag of their file; none and None where there is no file.

    Raises:
        CorruptError: the file is no such document; nothing may be built on a guess.
        ArtifactError: the storage failed.
    """
    uri = join(dataset_uri, TOMBSTONES_FILE)
    try:
        data, etag = open_store(uri).read_with_etag(uri)
    except NotFoundError:
        return Tombstones(), None
    try:
        return Tombstones.model_validate_json(data), etag
    except ValueError:
        raise CorruptError(uri, "is no list of tombstones; restore it before anything is built") from None


def add_tombstones(dataset_uri: str, added: list[Forgotten], replacements: dict[str, str]) -> Tombstones:
    """Add tombstones by compare and set; several writers lose nothing.

    Raises:
        ConflictError: others write without end.
        ArtifactError: the storage failed.
    """
    uri = join(dataset_uri, TOMBSTONES_FILE)
    store = open_store(uri)
    for attempts_left in range(_ATTEMPTS - 1, -1, -1):
        known, etag = read_tombstones(dataset_uri)
        extended = known.extended(added, replacements)
        try:
            store.write(uri, canonical_json(extended), if_absent=etag is None, if_match=etag)
            break
        except ConflictError:
            if attempts_left == 0:
                raise
    return extended
