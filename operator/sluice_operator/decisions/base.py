"""The seam between the pure half of the operator and the half that does IO.

`observe` gathers facts into an `Observed`; `decide` turns object, facts and an instant into a `Decision`; `apply`
carries it out. Everything here is data: frozen, without IO, clock or randomness.

Crash safety rests on three habits: an attempt is written into the status as an intent before its job is submitted; the
job's name is a function of kind, name, UID and attempt; and submitting a job that already exists under our UID is
success. Whatever dies in between, the next reconciliation finds the same intent and the same name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from sluice_api.contracts.jobs import Progress, Result
from sluice_api.contracts.models import Channel
from sluice_api.instants import format_instant


class JobState(StrEnum):
    """Where a job stands in its compute backend."""

    MISSING = "Missing"
    """The backend answers and knows no such job."""
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    UNKNOWN = "Unknown"
    """The backend does not answer; `message` says why. Nothing may be concluded."""


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as its backend reports it."""

    name: str
    state: JobState
    reason: str = ""
    """Backend's own reason, e.g. `ValidationFailed` of a RayJob or `ImagePullBackOff` of a pod."""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class AttemptView:
    """Everything known of the newest attempt."""

    job: JobView
    progress: Progress | None = None
    result: Result | None = None
    storage_problem: str = ""
    """Why progress and result could not be read; empty when they could (or are not there yet)."""


class Backend(StrEnum):
    """Compute backends."""

    RAY = "ray"
    KUBERAY = "kuberay"
    JOB = "job"


Platform = Literal["", "cpu", "cuda", "rocm"]
"""What a profile's nodes compute with; empty where nobody said."""


@dataclass(frozen=True, kw_only=True)
class TokenSecret:
    """A Secret of which runs may name keys as tokens for agents and endpoints."""

    name: str
    keys: tuple[str, ...]
    """Those that may be named. With the backend `ray`: variables that the cluster's nodes have."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One entry of the operator's profile ConfigMap, validated. Only an admin writes it."""

    name: str
    backend: Backend
    address: str = ""
    """Base URL of the Ray dashboard (backend `ray`)."""
    image: str = ""
    """Container image (backends `kuberay`, `job`)."""
    entrypoint: str = "sluice"
    """Command that starts a worker: `<entrypoint> worker <kind>`."""
    service_account: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    accelerator: str = ""
    """Extended resource of one accelerator per worker, e.g. `nvidia.com/gpu` or `amd.com/gpu`; empty on CPU."""
    platform: Platform = ""
    """What its nodes compute with; empty: nobody said, and workers take what they find."""
    device: str = ""
    """What an accelerator's own name must hold, e.g. `MI300X`; empty: any."""
    accelerator_memory: str = ""
    """Memory of one accelerator, e.g. `80Gi`; runs that cannot fit are refused before they start."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Limits of one worker, and its requests too, e.g. `cpu: "4"`, `memory: 16Gi`."""
    head_resources: Mapping[str, str] = field(default_factory=dict)
    """The same of the head of a training cluster (backend `kuberay`)."""
    requests: Mapping[str, str] = field(default_factory=dict)
    """Requests where they shall be lower than the limits, for nodes that are shared; of head and workers alike."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Plain environment of the workers. No secrets: those come by `env_from`."""
    env_from: tuple[str, ...] = ()
    """Secrets mounted as environment (backends `kuberay`, `job`). No run can have them sent anywhere."""
    token_secrets: tuple[TokenSecret, ...] = ()
    """What a run's `tokenSecretRef` may name. Whoever may create runs may send these to any URL."""
    queue: str = ""
    """Kueue LocalQueue."""
    max_workers: int = 1
    """Ceiling on `spec.workers`."""
    num_cpus: float = 1.0
    """CPUs of the driver's and of each worker's Ray resources."""
    ray_version: str = "2.60.0"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The operator's own configuration that decisions need."""

    stop_grace: timedelta = timedelta(seconds=20)
    """How long a deletion waits for a job to stop before it lets go with a warning."""
    retry_backoff: timedelta = timedelta(seconds=10)
    """First delay before a failed attempt is tried again; doubles, at most five minutes."""
    poll: timedelta = timedelta(seconds=5)
    """Delay until a running job is looked at again."""
    prometheus: str = ""
    """Base URL of the Prometheus that answers a rollout's guards; empty where there is none."""
    storage_roots: tuple[str, ...] = ()
    """Places below which a namespace's objects may read and write, `{namespace}` in them for its name; empty: any."""
    shared_storage_roots: tuple[str, ...] = ()
    """Further places below which every namespace's objects may read."""

    def __post_init__(self) -> None:
        """Refuse an address that cannot be asked, and roots that are none."""
        if self.prometheus and not self.prometheus.startswith(("http://", "https://")):
            raise ValueError(f"prometheus must be an http(s) URL, not {self.prometheus!r}")
        for root in (*self.storage_roots, *self.shared_storage_roots):
            if not root.startswith(("s3://", "file:///")) or ".." in root.split("/"):
                raise ValueError(f"a storage root must be s3://bucket/prefix/ or file:///path/, not {root!r}")


class RouterProblem(StrEnum):
    """Why a route cannot be trusted."""

    NONE = ""
    FOREIGN_EDIT = "ForeignEdit"
    """Somebody else changed the weights; they are re-asserted."""
    CONFLICT = "NameConflict"
    """The object's name is taken by one that is not ours."""
    NOT_ACCEPTED = "NotAccepted"
    """The gateway has not accepted the route at its current generation."""
    UNREACHABLE = "Unreachable"


@dataclass(frozen=True, kw_only=True)
class RouteView:
    """The route as last read."""

    exists: bool
    weight: int = 0
    """Candidate's weight that it carries."""
    verified: bool = False
    """The route is in force as written (httpRoute: Accepted and ResolvedRefs at the current generation)."""
    mirror: int = 0
    """Per cent of the requests that it copies to the candidate."""
    candidate_digest: str = ""
    stable_digest: str = ""
    problem: RouterProblem = RouterProblem.NONE
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class ChannelView:
    """A channel pointer and the etag for its compare-and-set; `channel` None: it does not exist."""

    channel: Channel | None
    etag: str | None = None
    problem: str = ""
    """Why it could not be read; nothing may be concluded then."""


@dataclass(frozen=True, kw_only=True)
class GuardView:
    """The answer to a guard's query: a finite value, or why there is none."""

    value: float | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Facts about one object, gathered before the decision.

    `references` holds the raw objects that the spec names, keyed `Kind/name`; a missing one is None. `children` holds
    raw objects that carry our owner UID, same keys.
    """

    settings: Settings
    profile: Profile | None = None
    profile_problem: str = ""
    attempt: AttemptView | None = None
    references: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    children: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    rivals: tuple[str, ...] = ()
    """Names of older, unfinished ShadowRollouts for the same target."""
    channel: ChannelView | None = None
    route: RouteView | None = None
    guards: Mapping[str, GuardView] = field(default_factory=dict)
    """Answers to a rollout's guards, by their names; only while it is under way."""
    suite_digest: str = ""
    """Digest of the suite file (EvalRun), computed while observing."""
    storage_problem: str = ""


@dataclass(frozen=True, kw_only=True)
class SubmitJob:
    """Submit a job; one that exists under the owner's UID is success."""

    name: str
    profile: Profile
    job_input: Any
    """A `sluice_api.contracts.jobs` job input."""
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class StopJob:
    """Ask a job to stop; a missing one is success."""

    name: str
    profile: Profile


@dataclass(frozen=True, kw_only=True)
class ApplyChild:
    """Create or repair a child by server-side apply; refused when the name belongs to somebody else's object."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CreateOnce:
    """Create an object that must never be recreated or changed (lineage children, step scorecards)."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SetRoute:
    """Write both weights in one request."""

    weight: int
    stable: Channel
    candidate: Channel | None
    """None removes the candidate from the route; only with weight 0."""
    mirror: int = 0
    """Per cent of the requests to copy to the candidate; only with weight 0."""


@dataclass(frozen=True, kw_only=True)
class MoveChannel:
    """Move a channel by compare-and-set."""

    root: str
    channel: Channel
    etag: str | None


@dataclass(frozen=True, kw_only=True)
class EmitEvent:
    """Record a Kubernetes event."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class SetFinalizer:
    """Add or remove our finalizer."""

    present: bool


Action = SubmitJob | StopJob | ApplyChild | CreateOnce | SetRoute | MoveChannel | EmitEvent | SetFinalizer
"""Anything that a decision may ask for. Actions run in order; the first that fails ends the list."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now, what to tell, and when to look again.

    Order of execution: `actions` one by one, then the status patch. The first action that fails ends the list, and the
    status of this decision is not written: the next pass starts from what is true. So whatever an action needs to be
    written before it (an attempt's intent before its submission, a higher weight before it reaches the route) is a
    decision of its own, with the status alone and `requeue_after` zero.
    """

    status: Mapping[str, Any]
    """The whole new status in wire form; equal to the present one means no patch."""
    actions: tuple[Action, ...] = ()
    requeue_after: timedelta | None = None
    """None: only the periodic timer and events bring it back."""


@dataclass(frozen=True, kw_only=True)
class Now:
    """The instant of a decision, in the two forms that are needed."""

    instant: datetime
    """Timezone-aware, UTC."""

    @property
    def text(self) -> str:
        """RFC 3339 with whole seconds and `Z`."""
        return format_instant(self.instant)
