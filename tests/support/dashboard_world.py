"""A lineage with everything that a page can show, on a real API server and in real storage."""

import math
from datetime import UTC, datetime, timedelta

from manifests_for_tests import dataset, evaluation, rollout, run, scorecard
from sluice_api.contracts.base import ArtifactRef, RunRef
from sluice_api.contracts.jobs import Result, ShadowOutput
from sluice_api.contracts.shadow import EProcess, ShadowSummary, VariantSummary
from sluice_artifacts import open_store

STEPS = [
    {"weight": 1, "soak": "30m", "minRuns": 100},
    {"weight": 5, "soak": "2h", "minRuns": 1468},
    {"weight": 25, "soak": "2h", "minRuns": 1000},
    {"weight": 100, "soak": "1h", "minRuns": 500},
]
KEPT_ATTEMPTS = 11
CANDIDATE, STABLE = "sha256:" + "ca" * 32, "sha256:" + "5a" * 32
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title="owned"</script>'
"""A message that must stay a text."""
GATES = [
    ("task_pass_rate", 0.616, 0.55, "min", 164, [0.54, 0.69], "Pass", ""),
    ("parser_validity", 0.991, 0.98, "min", 1640, [0.985, 0.995], "Pass", ""),
    ("grounding_accuracy", 0.74, 0.70, "min", 410, [0.695, 0.78], "Inconclusive", "the interval holds the threshold"),
    ("escalation_rate_max", 0.024, 0.05, "max", 412, [0.013, 0.044], "Pass", ""),
    ("loop_rate_max", 0.071, 0.05, "max", 900, [0.056, 0.09], "Fail", ""),
    ("done_completeness", 0.0, 0.85, "min", None, None, "Missing", "input missing"),
]


def text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def gate_status() -> list[dict]:
    names = ("name", "value", "threshold", "direction", "n", "interval", "verdict", "note")
    return [{key: value for key, value in zip(names, gate, strict=True) if value is not None} for gate in GATES]


def publish_analyses(place, now: datetime) -> tuple[list[dict], dict]:
    """Write the results of 14 analyses over two steps; return the attempts and the newest summary's figures."""
    store, attempts = open_store(place.uri), []
    figures: dict = {}
    for number in range(14):
        step, since = (1, number) if number < 5 else (2, number - 5)
        at = now - timedelta(minutes=20 * (14 - number))
        runs = 25 * (since + 1) if step == 1 else 46 * (since + 1)
        # A candidate that is a little better: evidence for harm fades, for non-inferiority grows.
        harm = math.exp(0.4 * math.sin(number) - 0.09 * since)
        safe = math.exp((0.28 if step == 1 else 0.24) * since + 0.25 * math.sin(2 * number))
        share = 0.01 if step == 1 else 0.049 + 0.006 * math.sin(3 * number)
        summary = ShadowSummary(
            variants={
                "baseline": VariantSummary(variant="baseline", run_count=20 * runs, escalated_runs=int(0.6 * runs)),
                "candidate": VariantSummary(variant="candidate", run_count=runs, escalated_runs=int(0.025 * runs)),
            },
            verdict="Insufficient",
            method="sequential",
            e_process=EProcess(harm=harm, non_inferiority=safe, threshold=20.0, harm_threshold=40.0 * step),
            candidate_share=share,
            candidate_digest=CANDIDATE,
            since=text(now - timedelta(minutes=20 * (15 if step == 1 else 9) + 5)),
        )
        prefix = f"{place.uri}rollout/attempts/{number + 1}/"
        report = ArtifactRef(uri=f"{prefix}summary.json", digest=CANDIDATE)
        result = Result(
            run=RunRef(kind="ShadowRollout", namespace=place.namespace, name="agent", uid="u"),
            attempt=number + 1,
            finished_at=text(at),
            output=ShadowOutput(summary=summary, report=report),
        )
        store.write(f"{prefix}result.json", result.model_dump_json().encode())
        attempts.append(
            {
                "number": number + 1,
                "job": f"job-{number + 1}",
                "key": f"analysis/1/{step}/{since + 1}",
                "outputUri": prefix,
                "intendedAt": text(at),
                "endedAt": text(at + timedelta(seconds=9)),
            }
        )
        figures = {"at": text(at), "harm": harm, "nonInferiority": safe, "share": share, "runs": runs}
    # A status keeps the newest attempts alone; the results of the others lie in storage.
    return attempts[-KEPT_ATTEMPTS:], figures


def furnish_lineage(place, *, now: datetime | None = None) -> None:
    """Create a lineage at step 2 of 4, a run in training, and a rollout with a hostile message."""
    now = now or datetime.now(UTC).replace(microsecond=0)
    place.apply(
        dataset(place.uri, "checkout", suspend=True),
        run(place.uri, "checkout-a2", datasetRef={"name": "checkout"}),
        evaluation(place.uri, "checkout-e2", candidate={"fineTuneRunRef": {"name": "checkout-a2"}}),
        scorecard(
            place.uri,
            "checkout-offline",
            candidate={"fineTuneRunRef": {"name": "checkout-a2"}},
            evalRunRef={"name": "checkout-e2"},
        ),
        rollout(
            place.uri,
            "agent",
            steps=STEPS,
            candidate={"fineTuneRunRef": {"name": "checkout-a2"}},
            scorecardRef={"name": "checkout-offline"},
        ),
        run(place.uri, "checkout-a3", datasetRef={"name": "checkout"}),
        rollout(place.uri, "hostile", steps=STEPS, candidate={"fineTuneRunRef": {"name": "gone"}}),
    )
    attempts, figures = publish_analyses(place, now)
    began = text(now - timedelta(minutes=20 * 9 + 5))
    latest = {
        "digest": "sha256:" + "d" * 64,
        "uri": place.uri,
        "rows": 51234,
        "labels": {"positive": 61000, "negative": 4100},
    }
    _status(place, "tracedataset", "checkout", phase="Ready", latest=latest, versions=[latest])
    adapter = {"uri": place.uri, "digest": CANDIDATE, "rank": 32, "finalLoss": 0.33}
    _status(place, "finetunerun", "checkout-a2", phase="Succeeded", adapter=adapter)
    progress = {"stage": "training", "step": 740, "of": 1000, "loss": 0.41}
    _status(place, "finetunerun", "checkout-a3", phase="Running", message="step 740 of 1000", progress=progress)
    summary = {"tasks": 164, "passed": 101, "failed": 60, "errored": 3, "passRate": 0.616, "interval": [0.54, 0.69]}
    comparison = {"common": 161, "wins": 21, "losses": 4, "winRate": 0.84, "pValue": 0.0005, "verdict": "Better"}
    _status(place, "evalrun", "checkout-e2", phase="Succeeded", summary=summary, comparison=comparison)
    _status(place, "promotionscorecard", "checkout-offline", phase="Passed", verdict="Pass", gates=gate_status())
    runs = figures["runs"]
    _status(
        place,
        "shadowrollout",
        "agent",
        phase="Soaking",
        reason="TooFewRuns",
        message=f"step 2 of 4 at 5 %: {runs} of 1468 matured runs",
        step=2,
        round=1,
        stepStartedAt=began,
        previousStepStartedAt=text(now - timedelta(minutes=20 * 15)),
        weight={"desired": 5, "actual": 5},
        arms={
            "stable": {"runs": 20 * runs, "escalations": int(0.6 * runs)},
            "candidate": {"runs": runs, "escalations": int(0.025 * runs)},
        },
        verdict="Insufficient",
        evidence={
            "uri": place.uri,
            "digest": CANDIDATE,
            "step": 2,
            "verdict": "Insufficient",
            "at": figures["at"],
            "harm": figures["harm"],
            "nonInferiority": figures["nonInferiority"],
            "candidateShare": figures["share"],
        },
        candidateDigest=CANDIDATE,
        stableDigest=STABLE,
        attempts=attempts,
        approvals=[{"step": 1, "at": began, "by": "alice@example.com"}],
    )
    rolled = {"type": "RolledBack", "status": "True", "reason": "Harm", "lastTransitionTime": began, "message": ""}
    _status(
        place,
        "shadowrollout",
        "hostile",
        phase="RolledBack",
        reason="Harm",
        message=HOSTILE,
        outcome="RolledBack",
        conditions=[rolled],
    )


def _status(place, kind: str, name: str, **status) -> None:
    place.patch(kind, name, {"status": status}, "--subresource=status")
