"""Where the bytes of Sluice live: `s3://` and `file://`, digests, manifests written last, compare-and-set pointers."""

from sluice_artifacts.channels import channel_uri, move_channel, read_channel
from sluice_artifacts.digests import (
    canonical_json,
    digest_bytes,
    digest_file,
    digest_tree,
    from_hex,
    to_hex,
)
from sluice_artifacts.errors import (
    ArtifactError,
    ConflictError,
    CorruptError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)
from sluice_artifacts.models import fetch_model, fetch_model_and_digest
from sluice_artifacts.publishing import (
    MANIFEST_FILE,
    fetch,
    publish,
    publish_document,
    read_document,
    read_manifest,
)
from sluice_artifacts.store import ObjectInfo, Store, join, open_store

__all__ = [
    "MANIFEST_FILE",
    "ArtifactError",
    "ConflictError",
    "CorruptError",
    "ForbiddenError",
    "NotFoundError",
    "ObjectInfo",
    "Store",
    "UnreachableError",
    "canonical_json",
    "channel_uri",
    "digest_bytes",
    "digest_file",
    "digest_tree",
    "fetch",
    "fetch_model",
    "fetch_model_and_digest",
    "from_hex",
    "join",
    "move_channel",
    "open_store",
    "publish",
    "publish_document",
    "read_channel",
    "read_document",
    "read_manifest",
    "to_hex",
]
