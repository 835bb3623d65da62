"""The chapters of the demo, in order. Each applies manifests from `examples/` and waits for what must come of them."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from sluice_cli.demo import figures
from sluice_cli.demo.screen import Screen, gates_table
from sluice_cli.demo.watching import Snapshot, StoryError, Watcher
from sluice_cli.local.layout import NAMESPACE, checkout
from sluice_cli.local.stack import FIRST_RUNS, Stack

TRAFFIC_PER_S = 30.0
"""Runs per second while a rollout climbs."""


@dataclass
class Story:
    """Tells the demo on a running stack. Every chapter raises StoryError when it does not go as it must."""

    stack: Stack
    screen: Screen
    watcher: Watcher
    seconds: dict[str, float] = field(default_factory=dict)

    def tell(self) -> None:
        """Tell all chapters."""
        chapters: tuple[tuple[str, str, Callable[[], None]], ...] = (
            (
                "Production",
                "The agent serves shoppers with the base model. Every run is exported as a trace, stamped with the "
                "weights that served it.",
                self.production,
            ),
            ("Traces become a dataset", "kubectl apply -f examples/tracedataset.yaml", self.dataset),
            ("A LoRA adapter is trained on Ray", "kubectl apply -f examples/finetunerun.yaml", self.training),
            ("Candidate against champion", "kubectl apply -f examples/evalrun.yaml", self.evaluation),
            ("Nine gates", "kubectl apply -f examples/promotionscorecard.yaml", self.scorecard),
            (
                "Traffic climbs 5 → 25 → 100 %",
                "kubectl apply -f examples/shadowrollout.yaml; shoppers keep coming.",
                self.rollout,
            ),
            (
                "A damaged model is refused",
                "The same training with a ruinous learning rate: kubectl apply -f examples/damaged/",
                self.refusal,
            ),
            (
                "Forced past its scorecard, it is rolled back",
                "kubectl apply -f examples/damaged/shadowrollout-forced.yaml",
                self.rollback,
            ),
        )
        for number, (title, text, tell) in enumerate(chapters, start=1):
            self.screen.chapter(number, title, text)
            tell()
        self.screen.still()

    def production(self) -> None:
        """Let the base agent serve the first shoppers."""
        with self.screen.console.status("shoppers arrive"):
            served = self.stack.fleet(runs=FIRST_RUNS)
        self.screen.say(
            f"{served.runs} runs, {served.successes} solved without help, {served.escalated} escalated; "
            f"traces in {self.stack.layout.traces}"
        )

    def dataset(self) -> None:
        """Build the first version."""
        self._apply("tracedataset.yaml")
        self._wait("TraceDataset", "storefront", ("Ready",), wish="a dataset version", timeout_s=120)
        latest = self.watcher.snapshot.status("TraceDataset", "storefront")["latest"]
        self.screen.say(
            f"{latest['rows']} rows to train on, {latest['holdoutRows']} held out, from {latest['traces']} traces; "
            f"labels {latest['labels']}; {latest['digest']}"
        )

    def training(self) -> None:
        """Train the good candidate."""
        self._train("finetunerun.yaml", "storefront-a1")

    def evaluation(self) -> None:
        """Evaluate it; it must be better beyond both intervals."""
        candidate, baseline = self._evaluate("evalrun.yaml", "storefront-e1")
        if baseline is None or candidate.low <= baseline.high:
            raise StoryError(f"the adapter's pass rate {candidate} does not exceed the base model's {baseline}")

    def scorecard(self) -> None:
        """Judge it; it must pass."""
        self._apply("promotionscorecard.yaml")
        self._wait_verdict("storefront-offline", "Pass")

    def rollout(self) -> None:
        """Roll it out; the channel must name it in the end."""
        self._apply("shadowrollout.yaml")
        with self.stack.traffic(TRAFFIC_PER_S):
            self._wait(
                "ShadowRollout",
                "storefront",
                ("Completed",),
                wish="the rollout's completion",
                timeout_s=420,
                bad=("RolledBack", "Stalled", "Superseded"),
            )
        adapter = self._adapter("storefront-a1")
        if self.stack.channel_digest() != adapter:
            raise StoryError(f"channel stable names {self.stack.channel_digest()}, not {adapter}")
        self.screen.say(f"channel stable now names {adapter}")

    def refusal(self) -> None:
        """Train, evaluate and judge the damaged candidate; its rollout must never leave 0."""
        self._train("damaged/finetunerun.yaml", "storefront-damaged")
        self._evaluate("damaged/evalrun.yaml", "storefront-damaged")
        self._apply("damaged/promotionscorecard.yaml")
        self._apply("damaged/shadowrollout.yaml")
        self._wait_verdict("storefront-damaged", "Fail")
        self._until(
            lambda snapshot: (
                snapshot.status("ShadowRollout", "storefront-damaged").get("reason") == "ScorecardNotPassed"
            ),
            wish="the refusal",
            timeout_s=60,
        )
        weight = self.watcher.snapshot.status("ShadowRollout", "storefront-damaged").get("weight") or {}
        if weight.get("desired", 0) or weight.get("actual", 0):
            raise StoryError(f"a refused candidate has weight {weight}")
        self._kubectl("delete", "shadowrollout/storefront-damaged", "--wait=true")

    def rollback(self) -> None:
        """Force the damaged candidate past its scorecard; harm must take it back to 0."""
        self._apply("damaged/shadowrollout-forced.yaml")
        with self.stack.traffic(TRAFFIC_PER_S):
            took = self._wait(
                "ShadowRollout",
                "storefront-forced",
                ("RolledBack",),
                wish="the rollback",
                timeout_s=240,
                bad=("Completed", "Stalled"),
            )
        status = self.watcher.snapshot.status("ShadowRollout", "storefront-forced")
        weight = status.get("weight", {})
        if weight.get("desired") != 0 or weight.get("actual") != 0:
            raise StoryError(f"rolled back, but the weight is {weight}")
        if self.stack.channel_digest() != self._adapter("storefront-a1"):
            raise StoryError("the damaged candidate reached the stable channel")
        self.seconds["rollback"] = took

    def _apply(self, example: str) -> None:
        """Apply an example, with this installation's places in it."""
        text = (checkout() / "examples" / example).read_text(encoding="utf-8")
        self._kubectl("apply", "-f", "-", stdin=self.stack.layout.localise(text))

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> None:
        """Run kubectl. Raises StoryError with what it said."""
        done = subprocess.run(
            [str(self.stack.kubectl), "--namespace", NAMESPACE, *arguments],
            input=stdin,
            text=True,
            capture_output=True,
            env=self.stack.environment,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise StoryError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")

    def _train(self, example: str, name: str) -> None:
        """Apply a FineTuneRun and wait for its adapter."""
        self._apply(example)
        took = self._wait(
            "FineTuneRun", name, ("Succeeded",), wish="the adapter", timeout_s=300, bad=("Failed", "Stalled")
        )
        adapter = self.watcher.snapshot.status("FineTuneRun", name)["adapter"]
        self.seconds[name] = took
        self.screen.say(
            f"{adapter['steps']} steps in {took:.0f} s, final loss {adapter['finalLoss']:.3f}; {adapter['digest']}"
        )

    def _evaluate(self, example: str, name: str) -> tuple[figures.Rate, figures.Rate | None]:
        """Apply an EvalRun and return both pass rates."""
        self._apply(example)
        self._wait("EvalRun", name, ("Succeeded",), wish="the evaluation", timeout_s=240, bad=("Failed", "Stalled"))
        status = self.watcher.snapshot.status("EvalRun", name)
        candidate = figures.rate(status["summary"])
        baseline = figures.rate(status["baselineSummary"]) if status.get("baselineSummary") else None
        comparison = status.get("comparison") or {}
        counts = (
            f"{comparison.get('wins')} wins, {comparison.get('losses')} losses, p = {comparison.get('pValue', 1):.2g}"
        )
        self.screen.say(
            f"candidate {candidate}, champion {baseline}: {comparison.get('verdict')} ({counts}); "
            f"{status['report']['digest']}"
        )
        return candidate, baseline

    def _wait_verdict(self, name: str, verdict: str) -> None:
        """Wait for a scorecard's verdict and print its gates."""
        self._until(
            lambda snapshot: bool(snapshot.status("PromotionScorecard", name).get("verdict")),
            wish=f"the verdict of {name}",
            timeout_s=90,
        )
        status = self.watcher.snapshot.status("PromotionScorecard", name)
        self.screen.say(gates_table(status))
        if status["verdict"] != verdict:
            raise StoryError(f"scorecard {name}: {status['verdict']}, not {verdict}: {status.get('message')}")
        self.screen.say(f"{name}: {verdict}; {status.get('scorecardDigest')}")

    def _wait(
        self,
        kind: str,
        name: str,
        phases: tuple[str, ...],
        *,
        wish: str,
        timeout_s: float,
        bad: tuple[str, ...] = ("Failed", "Stalled"),
    ) -> float:
        """Wait until an object is in one of the phases; fail at once in a bad one."""

        def failed(snapshot: Snapshot) -> str:
            status = snapshot.status(kind, name)
            if status.get("phase") not in bad:
                return ""
            return f"{kind}/{name} is {status['phase']}: {status.get('reason')}: {status.get('message')}"

        return self._until(
            lambda snapshot: snapshot.status(kind, name).get("phase") in phases,
            wish=wish,
            timeout_s=timeout_s,
            failed=failed,
        )

    def _until(
        self,
        done: Callable[[Snapshot], bool],
        *,
        wish: str,
        timeout_s: float,
        failed: Callable[[Snapshot], str] = lambda snapshot: "",
    ) -> float:
        """Wait, showing what happens."""
        took = self.watcher.until(done, wish=wish, timeout_s=timeout_s, show=self.screen.show, failed=failed)
        self.screen.still()
        return took

    def _adapter(self, name: str) -> str:
        """Return the digest of a run's adapter."""
        return str(self.watcher.snapshot.status("FineTuneRun", name)["adapter"]["digest"])
