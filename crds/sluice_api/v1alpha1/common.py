"""What the five kinds share: naming, references, conditions, attempts, and how a kind describes its CRD."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from sluice_api.contracts.suites import BUILTIN_PREFIX, BUILTIN_SUITES

GROUP = "sluice.dev"
"""API group."""
VERSION = "v1alpha1"
"""API version."""
API_VERSION = f"{GROUP}/{VERSION}"
"""`apiVersion` of every object."""
FINALIZER = f"{GROUP}/operator"
"""Finalizer that stops the work and restores traffic before an object goes."""

ANNOTATION_PROMOTED_BY = f"{GROUP}/promoted-by"
"""Who approves: beside the promote annotation, since the API server records no user on an object."""
ANNOTATION_PROMOTE = f"{GROUP}/promote"
"""Command: advance or approve the named step now; the value is the step number."""
ANNOTATION_ABORT = f"{GROUP}/abort"
"""Command: roll back to 0; any value that differs from the acknowledged one."""
ANNOTATION_RETRY = f"{GROUP}/retry"
"""Command: start again; any value that differs from the acknowledged one."""
ANNOTATION_REFRESH = f"{GROUP}/refresh"
"""Command: build a dataset version now; any value that differs from the acknowledged one."""

DURATION_PATTERN = r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
"""Durations are written like `7d`, `1h30m` or `600s`."""

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

ObjectName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=63)]
"""Name of an object in the same namespace."""
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", min_length=1, max_length=64)]
"""Name of a request header."""
Uri = Annotated[str, StringConstraints(pattern=r"^(s3|file|hf|https?)://.+", max_length=1024)]
"""A place: `s3://`, `file://`, `hf://` or, for endpoints, `http(s)://`."""
StorageUri = Annotated[str, StringConstraints(pattern=r"^(s3|file)://.+", max_length=1024)]
"""A place in artifact storage: `s3://bucket/prefix/` or `file:///path/`."""
SuiteUri = Annotated[
    str,
    StringConstraints(pattern=rf"^({BUILTIN_PREFIX}({'|'.join(BUILTIN_SUITES)})|(s3|file)://.+)$", max_length=1024),
]
"""A file of tasks in artifact storage, or the name of a built-in suite."""
EndpointUrl = Annotated[str, StringConstraints(pattern=r"^https?://.+", max_length=1024)]
"""URL of an endpoint."""
DigestString = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
"""A content digest."""
Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, min_length=2, max_length=32)]
"""A length of time, like `30m`, `2h` or `7d`."""
Text = Annotated[str, StringConstraints(max_length=1024)]
"""Free text."""
ShortText = Annotated[str, StringConstraints(max_length=253)]
"""A short free text."""
Timestamp = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$", max_length=40)]
"""An instant, RFC 3339, UTC."""


def rule(expression: str, message: str, *, field_path: str = "", optional_old_self: bool = False) -> dict[str, Any]:
    """Return one CEL validation rule in the API server's form.

    `message` must name the field; `field_path` (e.g. `.spec.steps`) places the error.
    """
    result: dict[str, Any] = {"rule": expression, "message": message}
    if field_path:
        result["fieldPath"] = field_path
    if optional_old_self:
        result["optionalOldSelf"] = True
    return result


def validations(*rules: dict[str, Any]) -> dict[str, Any]:
    """Return the schema extra that attaches CEL rules to a model or a field."""
    return {"x-kubernetes-validations": list(rules)}


class ApiModel(BaseModel):
    """A part of an object: camelCase on the wire, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form: camelCase, absent fields left out."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")


class StatusModel(ApiModel):
    """A part of a status. Unknown fields are ignored: a newer operator may have written them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class LocalRef(ApiModel):
    """Names an object in the same namespace."""

    name: ObjectName
    """Name of the object."""


class ConditionStatus(StrEnum):
    """Truth of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """One observation, in the form that `kubectl wait`, kstatus and Argo CD understand."""

    type: Annotated[str, StringConstraints(max_length=64)]
    """What is observed, e.g. `Ready`, `Reconciling`, `Stalled`, `Succeeded`."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(max_length=128)]
    """CamelCase reason, from a documented list."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """Sentence for people, with the numbers and what to do."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: int | None = None
    """Generation that was observed."""


class AttemptFailure(StatusModel):
    """Why an attempt failed."""

    failure_class: Annotated[str, StringConstraints(max_length=64)] = Field(alias="class")
    """Failure class: decides whether it is tried again."""
    reason: Annotated[str, StringConstraints(max_length=128)] = ""
    """CamelCase reason where it says more than the class, e.g. `DeadlineExceeded` or `Suspended`."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """What happened and what to do."""


class Attempt(StatusModel):
    """One job on behalf of the object."""

    number: int
    """Counts from 1 and never repeats for one UID."""
    job: Annotated[str, StringConstraints(max_length=128)]
    """Name of the job in the compute backend."""
    generation: int | None = None
    """Generation of the spec that it runs."""
    key: ShortText = ""
    """What asked for it: a spec change, the schedule's instant, a command, a rollout's step."""
    output_uri: Text = ""
    """Attempt-scoped prefix of progress and result."""
    inputs: dict[str, DigestString] = Field(default_factory=dict, max_length=16)
    """Digests given to the job."""
    profile: ShortText = ""
    """Compute profile that it runs under."""
    intended_at: Timestamp | None = None
    """When it was decided on: the job's name is fixed from then on, and its deadline counts."""
    submitted_at: Timestamp | None = None
    """When the backend was first seen to have it; absent while it is only intended."""
    started_at: Timestamp | None = None
    """When it was first seen running."""
    ended_at: Timestamp | None = None
    """When it ended."""
    failure: AttemptFailure | None = None
    """Why it failed; absent while it runs and after success."""
    resumed_from_step: int | None = None
    """Optimizer step that it resumed from."""


class RunProgress(StatusModel):
    """Where the present attempt stands; written on change of stage or every few per cent, never as a ticker."""

    stage: ShortText = ""
    """What the worker does."""
    step: int = 0
    """Units done."""
    of: int = 0
    """Units in all; 0 when unknown."""
    loss: float | None = None
    """Training loss per scored token, in nats."""
    epoch: float | None = None
    """Passes over the data."""
    tokens_per_second: float | None = None
    """Real tokens per second."""


class BaseStatus(StatusModel):
    """What every status has."""

    observed_generation: int | None = None
    """Generation that this status answers."""
    phase: Annotated[str, StringConstraints(max_length=64)] = "Pending"
    """Summary for people, derived from the conditions; machines read `conditions`."""
    reason: Annotated[str, StringConstraints(max_length=128)] = ""
    """Reason of the phase, from a documented list."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """Why it waits or what it did, with numbers."""
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Observations; at least `Ready`, `Reconciling` and `Stalled`."""
    attempts: list[Attempt] = Field(default_factory=list, max_length=20)
    """The newest jobs, oldest first."""
    attempts_total: int = 0
    """Jobs so far: the number of the newest attempt."""
    acknowledged: dict[str, ShortText] = Field(default_factory=dict, max_length=8)
    """Command annotations that were carried out, by command, with the value that was acted on."""


@dataclass(frozen=True, kw_only=True)
class PrinterColumn:
    """One column of `kubectl get`."""

    name: str
    """Header."""
    path: str
    """JSONPath from the object."""
    type: str = "string"
    """`string`, `integer`, `number`, `boolean` or `date`."""
    wide: bool = False
    """Only with `-o wide`."""
    description: str = ""
    """Shown by `kubectl explain` tools."""


AGE = PrinterColumn(name="Age", path=".metadata.creationTimestamp", type="date")
"""The usual last column."""
REASON = PrinterColumn(name="Reason", path=".status.reason", description="Why it is in this phase")
"""Reason of the phase."""
MESSAGE = PrinterColumn(name="Message", path=".status.message", wide=True)
"""Message of the phase."""


@dataclass(frozen=True, kw_only=True)
class CrdNames:
    """How a kind appears in the API."""

    kind: str
    """Kind."""
    plural: str
    """Plural, lower case."""
    short: tuple[str, ...] = ()
    """Short names."""
    columns: tuple[PrinterColumn, ...] = ()
    """Columns of `kubectl get`."""
    root_rules: tuple[dict[str, Any], ...] = field(default=())
    """CEL rules over the whole object, where spec and status meet."""

    @property
    def singular(self) -> str:
        """Singular, lower case."""
        return self.kind.lower()


class SluiceObject(BaseModel):
    """A custom resource. `metadata` is the API server's affair and stays a plain mapping."""

    model_config = ConfigDict(
        populate_by_name=True, alias_generator=to_camel, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    crd: ClassVar[CrdNames]
    """Names, columns and rules of the CRD."""

    api_version: str = API_VERSION
    """API version."""
    kind: str = ""
    """Kind."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Object metadata."""

    @property
    def name(self) -> str:
        """Name."""
        return str(self.metadata.get("name", ""))

    @property
    def namespace(self) -> str:
        """Namespace."""
        return str(self.metadata.get("namespace", ""))

    @property
    def uid(self) -> str:
        """UID."""
        return str(self.metadata.get("uid", ""))

    @property
    def generation(self) -> int:
        """Generation of the spec."""
        return int(self.metadata.get("generation", 1))

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations."""
        return dict(self.metadata.get("annotations") or {})

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for."""
        return bool(self.metadata.get("deletionTimestamp"))


def immutable_once(started: str, fields: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """Return root rules that freeze the named spec fields once `started` (CEL over `self`) holds.

    A run that never started may be corrected; one that did is evidence, and only `suspend` may change.
    """
    return tuple(
        rule(
            f"!({started}) || (has(self.spec.{name}) == has(oldSelf.spec.{name}) && "
            f"(!has(self.spec.{name}) || self.spec.{name} == oldSelf.spec.{name}))",
            f"spec.{name} is immutable once the run has started; create a new run instead",
            field_path=f".spec.{name}",
        )
        for name in fields
    )


def wire_fields(model: type[ApiModel], *, but: tuple[str, ...]) -> tuple[str, ...]:
    """Return the camelCase names of a model's fields, some left out."""
    return tuple(to_camel(name) for name in model.model_fields if to_camel(name) not in but)
