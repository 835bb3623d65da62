"""A rollout in a small world: traffic, analyses and scorecards that a test decides."""

from typing import Any

from decisionworld import DecisionWorld, channel, digest
from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.jobs import ShadowOutput
from sluice_api.contracts.shadow import EProcess, ShadowSummary, ShadowVerdict, VariantSummary
from sluice_operator.decisions.base import JobState, SetRoute

ROLLOUT, RUN, CARD = "ShadowRollout", "FineTuneRun", "PromotionScorecard"
NAME = "agent"
STABLE, CANDIDATE, OTHER = digest("5"), digest("ca"), digest("07")
ROOT = "s3://sluice/agent/"
STEPS = [
    {"weight": 5, "soak": "10m", "minRuns": 100},
    {"weight": 25, "soak": "10m", "minRuns": 100},
    {"weight": 100, "soak": "10m", "minRuns": 100},
]
SPEC: dict[str, Any] = {
    "candidate": {"fineTuneRunRef": {"name": "a1"}},
    "stable": {"root": ROOT},
    "scorecardRef": {"name": "offline"},
    "steps": STEPS,
    "analysis": {"source": {"uri": "s3://traces/acme/"}, "interval": "5m", "maxDuration": "1d"},
    "output": ROOT,
}


class RolloutWorld(DecisionWorld):
    """One candidate, one stable channel, one rollout."""

    def __init__(self, **spec: Any) -> None:
        super().__init__()
        self.channels[ROOT, "stable"] = channel("stable", STABLE)
        self.trained("a1", CANDIDATE)
        self.scorecard("offline", CANDIDATE)
        wanted = {**SPEC, **spec}
        self.create(ROLLOUT, NAME, {key: value for key, value in wanted.items() if value is not None})

    @property
    def uid(self) -> str:
        """UID of the rollout."""
        return str(self.objects[ROLLOUT, NAME]["metadata"]["uid"])

    @property
    def weight(self) -> int:
        """Candidate's weight in the route."""
        route = self.routes.get(self.uid)
        return route.weight if route is not None else 0

    def trained(self, name: str, value: str) -> None:
        """Add a finished FineTuneRun."""
        spec = {"datasetRef": {"name": "d"}, "baseModel": {"uri": "file:///models/base"}, "output": ROOT}
        self.create(RUN, name, spec)
        adapter = {"uri": f"{ROOT}adapters/{value[7:]}/", "digest": value, "rank": 8, "finalLoss": 0.3}
        self.set_status(RUN, name, phase="Succeeded", adapter=adapter, inputs={"baseModel": digest("b")})

    def scorecard(self, name: str, value: str, verdict: str | None = "Pass", hours: float = 24) -> None:
        """Add a scorecard with a verdict."""
        if (CARD, name) not in self.objects:
            self.create(CARD, name, {"candidate": {"digest": value}, "output": ROOT})
        self.judge(name, verdict, hours=hours)

    def judge(self, name: str, verdict: str | None, hours: float = 24) -> None:
        """Give a scorecard its verdict."""
        now = self.now
        self.pass_time(hours=hours)
        until = self.text()
        self.now = now
        spec = self.objects[CARD, name]["spec"]
        status = {"phase": "Pending", "candidate": spec["candidate"]["digest"], "message": "gates"}
        if verdict is not None:
            status |= {"verdict": verdict, "expiresAt": until, "evaluatedAt": self.text(), "phase": verdict}
        self.objects[CARD, name]["status"] = status

    def look(self) -> dict[str, Any]:
        """Let the operator settle; return the status."""
        self.settle(ROLLOUT, NAME)
        return self.status(ROLLOUT, NAME)

    def open_cards(self) -> list[str]:
        """Return the step scorecards without a verdict."""
        names = [entry["name"] for entry in self.status(ROLLOUT, NAME).get("scorecards", ())]
        return [name for name in names if (CARD, name) in self.objects and "verdict" not in self.status(CARD, name)]

    def analyse(
        self,
        verdict: ShadowVerdict = ShadowVerdict.NON_INFERIOR,
        *,
        runs: int = 200,
        about: str = CANDIDATE,
        wait: float = 5,
        share: float | None = None,
        unreadable: int = 0,
    ) -> str:
        """Pass `wait` minutes, let the analysis that is due run, give it a result; return its job."""
        self.pass_time(minutes=wait)
        self.look()
        job = self.newest_job(ROLLOUT, NAME)
        assert job not in self.results, "no analysis is due"
        self.job(job, JobState.RUNNING)
        share = self.weight / 100 if share is None else share
        output = analysis(verdict, runs=runs, about=about, number=len(self.results), share=share, unreadable=unreadable)
        self.succeed(job, output)
        self.look()
        return job

    def pass_step(self) -> None:
        """Let a step collect its evidence and its scorecard, and be done."""
        for _ in range(3):
            self.analyse()
        for name in self.open_cards():
            self.judge(name, "Pass")
        self.look()

    def raises(self) -> list[int]:
        """Return the weights that were written, in order."""
        return [action.weight for action in self.log if isinstance(action, SetRoute)]


def analysis(
    verdict: ShadowVerdict,
    *,
    runs: int,
    about: str,
    number: int = 0,
    share: float | None = None,
    unreadable: int = 0,
) -> ShadowOutput:
    """Return the result of an analysis; `unreadable` of 1000 traces could not be read."""
    arms = {
        name: VariantSummary(variant=name, run_count=n, step_count=2 * n, escalated_runs=n // share)
        for name, n, share in (("baseline", 4 * runs, 40), ("candidate", runs, 50))
    }
    summary = ShadowSummary(
        variants=arms,
        verdict=verdict,
        method="sequential",
        e_process=EProcess(
            harm=100.0 if verdict is ShadowVerdict.HARM else 0.2,
            non_inferiority=25.0 if verdict is ShadowVerdict.NON_INFERIOR else 4.2,
        ),
        candidate_digest=about,
        candidate_share=share,
        traces=1000,
        bad_files=unreadable,
    )
    report = ArtifactRef(uri=f"{ROOT}shadow/{number}.json", digest=digest(f"e{number}e"))
    return ShadowOutput(summary=summary, report=report)
