"""What all file contracts share."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

DIGEST_PATTERN = re.compile(r"^sha256:[0-9a-f]{64}$")

Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN.pattern)]
"""A content digest, `sha256:` followed by 64 lower-case hexadecimal digits."""


class Contract(BaseModel):
    """A document on disk: immutable once parsed, snake_case keys, unknown keys kept so that nothing is lost."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True, protected_namespaces=())


class ArtifactRef(Contract):
    """One immutable artifact: where it lies and what it hashes to."""

    uri: str
    """`file://` or `s3://` prefix or object that holds the artifact."""
    digest: Digest
    """Digest of the artifact's manifest (a prefix) or of its bytes (a single object)."""


class ModelRef(Contract):
    """Base weights, by place and, once a worker has verified them, by digest."""

    uri: str
    """`hf://owner/name`, `s3://bucket/prefix` or `file:///path`."""
    revision: str = ""
    """Revision on the hub; only for `hf://`."""
    digest: Digest | None = None
    """Digest over the model's files; None until a worker has computed it."""


class RunRef(Contract):
    """The object on whose behalf a job runs."""

    kind: str
    """Kind of the owner, e.g. `FineTuneRun`."""
    namespace: str
    """Namespace of the owner."""
    name: str
    """Name of the owner."""
    uid: str
    """UID of the owner: tells a recreated object from its predecessor."""
