"""A small world in memory that carries out decisions: objects, jobs, channels, routes and a clock.

It stands where the API server, the compute backend and artifact storage stand in production, keeps their rules (an
object is created once, a job name is one job, a channel moves by compare-and-set) and lets tests drop or repeat what an
operator does. Jobs do nothing by themselves: a test says how they go.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import Failure, FailureClass, Progress, Result
from sluice_api.contracts.models import Channel
from sluice_api.v1alpha1 import KINDS
from sluice_api.v1alpha1.common import FINALIZER, SluiceObject
from sluice_operator.decisions import decide, rivals_of, wanted
from sluice_operator.decisions.base import (
    ApplyChild,
    AttemptView,
    Backend,
    ChannelView,
    CreateOnce,
    Decision,
    EmitEvent,
    GuardView,
    JobState,
    JobView,
    MoveChannel,
    Now,
    Observed,
    Profile,
    RouteView,
    SetFinalizer,
    SetRoute,
    Settings,
    StopJob,
    SubmitJob,
)

START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
MODELS = {model.crd.kind: model for model in KINDS}
NAMESPACE = "shop"
CPU = Profile(name="cpu", backend=Backend.RAY, address="http://127.0.0.1:8265", max_workers=4)


def digest(number: int | str) -> str:
    """Return a digest that is easy to tell apart."""
    return "sha256:" + str(number)[-1] * 64 if isinstance(number, int) else "sha256:" + number.ljust(64, "0")


class DroppedError(Exception):
    """The operator died before an action."""


class DecisionWorld:
    """Everything that decisions see and change."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.now = START
        self.settings = settings or Settings()
        self.profiles: dict[str, Profile] = {"cpu": CPU}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.jobs: dict[str, JobView] = {}
        self.inputs: dict[str, Any] = {}
        self.submissions: list[str] = []
        self.progress: dict[str, Progress] = {}
        self.results: dict[str, Result] = {}
        self.storage_problem = ""
        self.backend_down = ""
        self.channels: dict[tuple[str, str], Channel] = {}
        self.channel_problem = ""
        self.routes: dict[str, RouteView] = {}
        self.route_verifies = True
        self.guards: dict[str, GuardView] = {}
        self.suites: dict[str, str] = {}
        self.events: list[EmitEvent] = []
        self.log: list[Any] = []
        self._uids = 0

    # Objects

    def create(self, kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
        """Create an object, as a user or an action does."""
        self._uids += 1
        raw = {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"uid-{self._uids}",
                "generation": 1,
                "creationTimestamp": self.text(),
                **metadata,
            },
            "spec": dict(spec),
        }
        MODELS[kind].model_validate(raw)
        self.objects[kind, name] = raw
        return raw

    def edit(self, kind: str, name: str, **spec: Any) -> None:
        """Change fields of a spec; None removes one."""
        raw = self.objects[kind, name]
        changed = {**raw["spec"], **spec}
        raw["spec"] = {key: value for key, value in changed.items() if value is not None}
        raw["metadata"]["generation"] += 1

    def annotate(self, kind: str, name: str, **commands: str | None) -> None:
        """Set or remove command annotations."""
        annotations = dict(self.objects[kind, name]["metadata"].get("annotations") or {})
        for command, value in commands.items():
            key = f"sluice.dev/{command}"
            if value is None:
                annotations.pop(key, None)
            else:
                annotations[key] = value
        self.objects[kind, name]["metadata"]["annotations"] = annotations

    def delete(self, kind: str, name: str) -> None:
        """Ask for a deletion; without a finalizer the object goes at once."""
        raw = self.objects[kind, name]
        if raw["metadata"].get("finalizers"):
            raw["metadata"]["deletionTimestamp"] = self.text()
        else:
            del self.objects[kind, name]

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """Return the status of an object, in wire form."""
        return dict(self.objects[kind, name].get("status") or {})

    def set_status(self, kind: str, name: str, **status: Any) -> None:
        """Set fields of a status, as another operator's pass would have."""
        self.objects[kind, name]["status"] = {**self.status(kind, name), **status}

    def parsed(self, kind: str, name: str) -> Any:
        """Return an object as its model."""
        return MODELS[kind].model_validate(self.objects[kind, name])

    def condition(self, kind: str, name: str, type_: str) -> tuple[str, str] | None:
        """Return status and reason of a condition."""
        for entry in self.status(kind, name).get("conditions", ()):
            if entry["type"] == type_:
                return entry["status"], entry["reason"]
        return None

    # Time

    def text(self) -> str:
        """Return the instant in wire form."""
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def pass_time(self, **delta: float) -> None:
        """Move the clock."""
        self.now += timedelta(**delta)

    # Jobs

    def newest_job(self, kind: str, name: str) -> str:
        """Return the name of an object's newest job."""
        return str(self.status(kind, name)["attempts"][-1]["job"])

    def job(self, name: str, state: JobState, reason: str = "", message: str = "") -> None:
        """Let a job come to a state."""
        self.jobs[name] = JobView(name=name, state=state, reason=reason, message=message)

    def report(self, name: str, **fields: Any) -> None:
        """Let a job write its progress."""
        job = self.inputs[name]
        self.progress[name] = Progress(attempt=job.attempt, updated_at=self.text(), **fields)

    def succeed(self, name: str, output: Any) -> None:
        """Let a job write its output and end."""
        job = self.inputs[name]
        self.results[name] = Result(run=job.run, attempt=job.attempt, finished_at=self.text(), output=output)
        self.job(name, JobState.SUCCEEDED)

    def fail(self, name: str, failure_class: FailureClass, message: str) -> None:
        """Let a job write a failure and end."""
        job = self.inputs[name]
        failure = Failure(failure_class=failure_class, message=message)
        self.results[name] = Result(run=job.run, attempt=job.attempt, finished_at=self.text(), failure=failure)
        self.job(name, JobState.SUCCEEDED)

    # The loop

    def observe(self, obj: SluiceObject) -> Observed:
        """Gather exactly what `wanted` names."""
        wants = wanted(obj)
        attempt = None
        if wants.attempt is not None:
            name = wants.attempt.job
            if self.backend_down:
                view = JobView(name=name, state=JobState.UNKNOWN, message=self.backend_down)
            else:
                view = self.jobs.get(name) or JobView(name=name, state=JobState.MISSING)
            readable = not self.storage_problem
            attempt = AttemptView(
                job=view,
                progress=self.progress.get(name) if readable else None,
                result=self.results.get(name) if readable else None,
                storage_problem=self.storage_problem,
            )
        channel = None
        if wants.channel is not None:
            found = self.channels.get(wants.channel)
            etag = None if found is None else found.digest + found.changed_by
            channel = ChannelView(channel=found, etag=etag, problem=self.channel_problem)
        return Observed(
            settings=self.settings,
            profile=self.profiles.get(wants.profile),
            profile_problem="" if wants.profile in self.profiles else f"no profile {wants.profile!r}",
            attempt=attempt,
            references={f"{kind}/{name}": self.objects.get((kind, name)) for kind, name in wants.references},
            channel=channel,
            route=self.routes.get(obj.uid, RouteView(exists=False)) if wants.route else None,
            guards=dict(self.guards) if wants.guards else {},
            suite_digest=self.suites.get(wants.suite_uri or "", ""),
            storage_problem="" if wants.suite_uri is None or wants.suite_uri in self.suites else "no such suite",
            rivals=rivals_of(obj, [r for (k, _), r in self.objects.items() if k == obj.crd.kind])  # type: ignore[arg-type]
            if wants.rivals
            else (),
        )

    def decision(self, kind: str, name: str) -> Decision:
        """Return what is decided about an object now, without doing it."""
        obj = self.parsed(kind, name)
        return decide(obj, self.observe(obj), Now(instant=self.now))

    def step(self, kind: str, name: str, *, die_before: int | None = None) -> Decision:
        """Decide once and carry it out; `die_before` n: the operator dies before its nth write (0 is the first)."""
        decision = self.decision(kind, name)
        try:
            for number, action in enumerate(decision.actions):
                if number == die_before:
                    raise DroppedError
                self.act(kind, name, action)
            if die_before is not None and die_before >= len(decision.actions):
                raise DroppedError
        except DroppedError:
            return decision
        if (kind, name) in self.objects:
            self.objects[kind, name]["status"] = dict(decision.status)
        return decision

    def settle(self, kind: str, name: str, limit: int = 30) -> Decision:
        """Decide until nothing is left to do at this instant."""
        for _ in range(limit):
            before = self.objects[kind, name].get("status"), dict(self.jobs)
            decision = self.step(kind, name)
            if (kind, name) not in self.objects:
                return decision
            same = before == (self.objects[kind, name].get("status"), self.jobs)
            if same and all(isinstance(action, SubmitJob | StopJob) for action in decision.actions):
                return decision
        raise AssertionError(f"{kind}/{name} does not settle: {self.objects[kind, name]['status']}")

    def act(self, kind: str, name: str, action: Any) -> None:
        """Carry out one action."""
        self.log.append(action)
        raw = self.objects[kind, name]
        match action:
            case SubmitJob():
                self.inputs.setdefault(action.name, action.job_input)
                if action.name not in self.jobs:
                    self.submissions.append(action.name)
                    self.job(action.name, JobState.PENDING)
            case StopJob():
                if action.name in self.jobs and self.jobs[action.name].state in (JobState.PENDING, JobState.RUNNING):
                    self.job(action.name, JobState.STOPPED)
            case CreateOnce():
                manifest = action.manifest
                key = manifest["kind"], manifest["metadata"]["name"]
                if key not in self.objects:
                    self.create(*key, manifest["spec"], labels=manifest["metadata"]["labels"])
            case SetRoute():
                stable = action.stable.digest
                candidate = action.candidate.digest if action.candidate is not None else ""
                self.routes[raw["metadata"]["uid"]] = RouteView(
                    exists=True,
                    weight=action.weight,
                    mirror=action.mirror,
                    verified=self.route_verifies,
                    stable_digest=stable,
                    candidate_digest=candidate,
                )
            case MoveChannel():
                place = action.root, action.channel.name
                found = self.channels.get(place)
                if action.etag != (None if found is None else found.digest + found.changed_by):
                    raise DroppedError
                self.channels[place] = action.channel
            case EmitEvent():
                self.events.append(action)
            case SetFinalizer():
                raw["metadata"]["finalizers"] = [FINALIZER] if action.present else []
                if not action.present and raw["metadata"].get("deletionTimestamp"):
                    del self.objects[kind, name]
            case ApplyChild():
                raise AssertionError("no decision applies children")

    def verify_route(self, uid: str, verified: bool = True) -> None:
        """Let the gateway confirm a route."""
        self.routes[uid] = replace(self.routes[uid], verified=verified)


def channel(name: str, digest_: str) -> Channel:
    """Return a channel that serves a base model alone."""
    return Channel(
        name=name,
        digest=digest_,
        base_model=ModelRef(uri="file:///models/base", digest=digest_),
        changed_by="init",
        changed_at="2026-11-01T00:00:00Z",
    )
