"""Lineages: which dataset, run, evaluation and scorecards stand behind a rollout, found by the names that they name.

Pure: works on raw objects as the API server gives them. What an object names and nobody made is shown as missing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = Mapping[str, Any]

DATASET, RUN, EVALUATION, SCORECARD, ROLLOUT = (
    "TraceDataset",
    "FineTuneRun",
    "EvalRun",
    "PromotionScorecard",
    "ShadowRollout",
)
"""The five kinds, in the order of the loop."""


@dataclass(frozen=True)
class Link:
    """An object of a lineage; `found` is None where only its name is known."""

    kind: str
    name: str
    found: Raw | None

    @property
    def status(self) -> Raw:
        """Its status; empty where there is none."""
        return (self.found or {}).get("status") or {}

    @property
    def spec(self) -> Raw:
        """Its spec; empty where there is none."""
        return (self.found or {}).get("spec") or {}

    @property
    def phase(self) -> str:
        """Its phase; `Missing` where there is no such object."""
        return "Missing" if self.found is None else str(self.status.get("phase") or "Pending")


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """From traces to weight. Every part but one may be None: a lineage grows from the left."""

    namespace: str
    dataset: Link | None = None
    run: Link | None = None
    evaluations: tuple[Link, ...] = ()
    scorecard: Link | None = None
    """Offline scorecard."""
    steps: tuple[Link, ...] = ()
    """Scorecards of the rollout's steps, oldest first."""
    rollout: Link | None = None

    @property
    def name(self) -> str:
        """Name of its last part."""
        for link in (self.rollout, self.scorecard, *self.evaluations, self.run, self.dataset):
            if link is not None:
                return link.name
        return ""


@dataclass
class Objects:
    """The five kinds' objects of some namespaces."""

    by_key: dict[tuple[str, str, str], Raw] = field(default_factory=dict)
    """Objects by namespace, kind and name."""

    @classmethod
    def of(cls, items: Iterable[Raw]) -> "Objects":
        """Index objects; each must carry its kind."""
        return cls({(_namespace(item), str(item["kind"]), str(item["metadata"]["name"])): item for item in items})

    def link(self, namespace: str, kind: str, name: str | None) -> Link | None:
        """Return a link to a named object; None without a name."""
        return Link(kind, name, self.by_key.get((namespace, kind, name))) if name else None

    def all(self, kind: str) -> list[Link]:
        """Return all objects of a kind, by namespace and name."""
        return [Link(kind, key[2], item) for key, item in sorted(self.by_key.items()) if key[1] == kind]


def lineage_of(rollout: Link, objects: Objects) -> Lineage:
    """Return the lineage that ends in a rollout."""
    namespace = _namespace(rollout.found or {})
    run = objects.link(namespace, RUN, _name(rollout.spec, "candidate", "fineTuneRunRef"))
    scorecard = objects.link(namespace, SCORECARD, _name(rollout.spec, "scorecardRef"))
    entries = rollout.status.get("scorecards") or ()
    steps = tuple(Link(SCORECARD, n, objects.by_key.get((namespace, SCORECARD, n))) for n in map(_entry_name, entries))
    return Lineage(
        namespace=namespace,
        dataset=_dataset_of(run, namespace, objects),
        run=run,
        evaluations=_evaluations(run, scorecard, namespace, objects),
        scorecard=scorecard,
        steps=steps,
        rollout=rollout,
    )


def lineages(objects: Objects) -> list[Lineage]:
    """Return every lineage: those of rollouts first, then runs without one, then datasets without a run."""
    found = [lineage_of(rollout, objects) for rollout in objects.all(ROLLOUT)]
    covered = {(each.namespace, each.run.name) for each in found if each.run is not None}
    for run in objects.all(RUN):
        namespace = _namespace(run.found or {})
        if (namespace, run.name) not in covered:
            found.append(_lineage_of_run(run, namespace, objects))
    used = {(each.namespace, each.dataset.name) for each in found if each.dataset is not None}
    for dataset in objects.all(DATASET):
        namespace = _namespace(dataset.found or {})
        if (namespace, dataset.name) not in used:
            found.append(Lineage(namespace=namespace, dataset=dataset))
    return found


def _lineage_of_run(run: Link, namespace: str, objects: Objects) -> Lineage:
    """Return the lineage of a run that no rollout names, with the newest scorecard about it."""
    named = [
        card
        for card in objects.all(SCORECARD)
        if _namespace(card.found or {}) == namespace and _name(card.spec, "candidate", "fineTuneRunRef") == run.name
    ]
    scorecard = max(named, key=lambda card: str((card.found or {})["metadata"].get("creationTimestamp")), default=None)
    return Lineage(
        namespace=namespace,
        dataset=_dataset_of(run, namespace, objects),
        run=run,
        evaluations=_evaluations(run, scorecard, namespace, objects),
        scorecard=scorecard,
    )


def _dataset_of(run: Link | None, namespace: str, objects: Objects) -> Link | None:
    return objects.link(namespace, DATASET, _name(run.spec, "datasetRef")) if run is not None else None


def _evaluations(run: Link | None, scorecard: Link | None, namespace: str, objects: Objects) -> tuple[Link, ...]:
    """Return the evaluation that the scorecard names; without one, all of the run's."""
    named = _name(scorecard.spec, "evalRunRef") if scorecard is not None else None
    if named:
        return (Link(EVALUATION, named, objects.by_key.get((namespace, EVALUATION, named))),)
    if run is None:
        return ()
    return tuple(
        each
        for each in objects.all(EVALUATION)
        if _namespace(each.found or {}) == namespace and _name(each.spec, "candidate", "fineTuneRunRef") == run.name
    )


def _namespace(item: Raw) -> str:
    return str((item.get("metadata") or {}).get("namespace") or "")


def _entry_name(entry: Raw) -> str:
    return str(entry.get("name") or "")


def _name(spec: Raw, *path: str) -> str | None:
    """Return the name at the end of a path of references; None where a part is missing."""
    value: Any = spec
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    found = value.get("name") if isinstance(value, Mapping) else None
    return str(found) if found else None
