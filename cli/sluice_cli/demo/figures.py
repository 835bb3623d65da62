"""The closing table: every figure beside the artifact that it was read from, each verified against its digest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.evaluation import CompareReport, EvalReport
from sluice_api.contracts.models import AdapterManifest
from sluice_api.contracts.scorecard import Scorecard
from sluice_api.contracts.shadow import ShadowSummary
from sluice_cli.demo.watching import Snapshot


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A pass rate with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as per cent."""
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def rate(summary: Mapping[str, Any]) -> Rate:
    """Return the pass rate of an evaluation's summary."""
    low, high = summary["interval"]
    return Rate(value=summary["passRate"], low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the closing table."""

    what: str
    value: str
    reference: ArtifactRef
    model: type


def figures(snapshot: Snapshot) -> Iterator[Figure]:
    """Yield every figure that the objects' statuses report, with the artifact behind it."""
    for kind, name in sorted(snapshot.objects):
        status = snapshot.status(kind, name)
        yield from _READERS[kind](name, status)


def _reference(status: Mapping[str, Any]) -> ArtifactRef:
    """Return an artifact reference from its status form."""
    return ArtifactRef(uri=status["uri"], digest=status["digest"])


def _dataset(name: str, status: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield a dataset's size."""
    if latest := status.get("latest"):
        value = f"{latest['rows']} rows, {latest['holdoutRows']} held out"
        yield Figure(what=f"dataset {name}", value=value, reference=_reference(latest), model=DatasetManifest)


def _training(name: str, status: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield a run's final loss."""
    if adapter := status.get("adapter"):
        value = f"loss {adapter['finalLoss']:.3f} after {adapter['steps']} steps"
        yield Figure(what=f"adapter {name}", value=value, reference=_reference(adapter), model=AdapterManifest)


def _evaluation(name: str, status: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield both pass rates and the comparison."""
    for what, report, summary in (
        ("candidate", "report", "summary"),
        ("champion", "baselineReport", "baselineSummary"),
    ):
        if status.get(report) and status.get(summary):
            yield Figure(
                what=f"pass rate, {what} of {name}",
                value=str(rate(status[summary])),
                reference=_reference(status[report]),
                model=EvalReport,
            )
    if status.get("compareReport") and (comparison := status.get("comparison")):
        yield Figure(
            what=f"comparison {name}",
            value=f"{comparison['verdict']}, p = {comparison['pValue']:.2g}",
            reference=_reference(status["compareReport"]),
            model=CompareReport,
        )


def _scorecard(name: str, status: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield a verdict."""
    if status.get("verdict") and status.get("scorecardDigest"):
        passed = sum(gate["verdict"] == "Pass" for gate in status["gates"])
        missing = sum(gate["verdict"] == "Missing" for gate in status["gates"])
        yield Figure(
            what=f"scorecard {name}",
            value=f"{status['verdict']}: {passed} gates pass, {missing} missing",
            reference=ArtifactRef(uri=status["scorecardUri"], digest=status["scorecardDigest"]),
            model=Scorecard,
        )


def _rollout(name: str, status: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield a rollout's last evidence."""
    if evidence := status.get("evidence"):
        arms = status["arms"]
        rates = " against ".join(f"{arm['escalations']}/{arm['runs']}" for arm in (arms["candidate"], arms["stable"]))
        yield Figure(
            what=f"rollout {name}",
            value=f"{status['phase']} at {status['weight']['actual']} %, {evidence['verdict']}, runs escalated {rates}",
            reference=_reference(evidence),
            model=ShadowSummary,
        )


_READERS = {
    "TraceDataset": _dataset,
    "FineTuneRun": _training,
    "EvalRun": _evaluation,
    "PromotionScorecard": _scorecard,
    "ShadowRollout": _rollout,
}


def verified_table(snapshot: Snapshot) -> Table:
    """Return the closing table. Raises CorruptError or NotFoundError when an artifact is not what its digest says."""
    from sluice_artifacts import read_document, read_manifest

    table = Table(title="What was measured; every artifact was read again and matches its digest", title_justify="left")
    for header in ("What", "Figure", "Artifact"):
        table.add_column(header, overflow="fold")
    for figure in figures(snapshot):
        reader = read_manifest if figure.model in (DatasetManifest, AdapterManifest) else read_document
        reader(figure.reference, figure.model)
        table.add_row(figure.what, figure.value, figure.reference.digest)
    return table
