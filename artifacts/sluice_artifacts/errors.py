"""What goes wrong with artifacts, told apart by what the reader has to do about it.

```
ArtifactError            the storage failed in another way (disk full, malformed URI)
├── NotFoundError        the object, the prefix or the bucket is not there
├── ForbiddenError       the credentials are missing, wrong or not allowed to
├── CorruptError         the bytes are not what their digest or their format says
├── ConflictError        somebody else wrote first
└── UnreachableError     the storage did not answer, or answered with a server error
```

Messages are written for a status condition: they name the URI and what to do, and never hold an artifact's content.
"""


class ArtifactError(Exception):
    """A failure of artifact storage.

    Survives pickling, since workers pass exceptions between processes.
    """

    def __init__(self, uri: str, message: str) -> None:
        """Remember the place.

        `uri` names the object, the prefix or the bucket concerned; `message` says what happened and what to do.
        """
        super().__init__(uri, message)
        self.uri = uri
        self.message = message

    def __str__(self) -> str:
        """Return the URI and the message."""
        return f"{self.uri}: {self.message}"


class NotFoundError(ArtifactError):
    """Nothing lies at the URI."""


class ForbiddenError(ArtifactError):
    """The storage knows the request and refuses it."""


class CorruptError(ArtifactError):
    """The bytes are not the ones that were promised."""


class ConflictError(ArtifactError):
    """A conditional write lost: the object exists already, is gone, or holds something else by now."""


class UnreachableError(ArtifactError):
    """The storage gives no usable answer; trying again later may help."""
