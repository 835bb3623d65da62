"""Errors of the operator, translated from their clients at one edge each.

    OperatorError
    ├── ClusterError              the Kubernetes API said no
    │   ├── NotFoundError         404: no such object
    │   ├── KindMissingError      404: no such kind, its CRD is not installed
    │   ├── ForbiddenError        401 and 403
    │   ├── ConflictError         409: the object changed since it was read
    │   ├── AlreadyExistsError    409 on create
    │   ├── InvalidError          400 and 422: the manifest is refused
    │   └── UnreachableError      no answer, 429 or 5xx
    ├── ForeignObjectError        the name belongs to somebody else's object
    ├── BackendError              a compute backend refused or failed
    │   └── BackendUnreachableError
    ├── ProfileError              the profile is missing or wrong
    ├── StorageError              artifact storage refused or failed
    └── LeaseLostError            this process may not write any more

Every error carries a `reason` in CamelCase for conditions and a message that says what to do.
"""


class OperatorError(Exception):
    """An error with a reason for conditions; `terminal` errors wait for a change instead of a retry."""

    reason = "Error"
    terminal = False


class ClusterError(OperatorError):
    """The Kubernetes API refused or failed; `status` is the HTTP status, 0 without an answer."""

    reason = "ClusterError"

    def __init__(self, message: str, *, status: int = 0, retry_after: float | None = None) -> None:
        """Remember the HTTP status and, in seconds, how long the server asked to wait."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class NotFoundError(ClusterError):
    """No such object."""

    reason = "NotFound"


class KindMissingError(ClusterError):
    """The cluster does not serve the kind: nothing may be concluded about its objects."""

    reason = "KindMissing"


class ForbiddenError(ClusterError):
    """The operator's role does not allow it, or its token is refused."""

    reason = "Forbidden"


class ConflictError(ClusterError):
    """The object changed since it was read: read again and decide again."""

    reason = "Conflict"


class AlreadyExistsError(ClusterError):
    """An object of that name exists."""

    reason = "AlreadyExists"


class InvalidError(ClusterError):
    """The API server refuses the manifest."""

    reason = "Refused"
    terminal = True


class UnreachableError(ClusterError):
    """No answer from the API server, or it is overloaded."""

    reason = "ClusterUnreachable"


class ForeignObjectError(OperatorError):
    """The name is taken by an object that is not ours; it is neither changed nor adopted."""

    reason = "NameConflict"
    terminal = True


class BackendError(OperatorError):
    """A compute backend refused the request."""

    reason = "BackendError"


class BackendUnreachableError(BackendError):
    """A compute backend does not answer, or refuses our token."""

    reason = "BackendUnreachable"


class ProfileError(OperatorError):
    """A compute profile is missing or wrong."""

    reason = "ProfileInvalid"


class StorageError(OperatorError):
    """Artifact storage refused or failed."""

    reason = "StorageError"


class StorageNotAllowedError(OperatorError):
    """A job would be given a place in storage where objects of its namespace may not be."""

    reason = "StorageNotAllowed"
    terminal = True


class LeaseLostError(OperatorError):
    """This process no longer holds the Lease: somebody else may act, so it must not."""

    reason = "LeaseLost"
