"""Shadow analysis: what the arms of a rollout did, and what that shows.

Counts are the seed's, per step. Inference is per run, since the steps of a run are not independent, and over matured
runs of this rollout and these weights only: evidence from before the step began, or about other weights, never counts.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

from sluice_api import ladder
from sluice_api.contracts.shadow import EProcess, ShadowComparison, ShadowSummary, ShadowVerdict, VariantSummary
from sluice_api.contracts.trace import Variant
from sluice_api.instants import format_instant
from sluice_evaluator.runs import Run, RunSet
from sluice_evaluator.shadow_pairs import Joined, join
from sluice_evaluator.statistics import SequentialConfig, blocks_of, e_path
from sluice_evaluator.statistics.pairs import paired_e_path
from sluice_evaluator.statistics.sequential import EPath

FEWEST_STABLE_RUNS = 20
"""Runs of the stable arm, or as many as are asked of the candidate, without which the tolerance rule says nothing."""


@dataclass(frozen=True, kw_only=True)
class ShadowConfig:
    """What counts as evidence, and how it is judged. Empty strings and None bind nothing."""

    method: Literal["sequential", "tolerance"] = "tolerance"
    """Decision rule."""
    tolerance: float = 0.0
    """Allowed excess of the step escalation rate (tolerance)."""
    margin: float = 0.01
    """Non-inferiority margin on the run escalation rate (sequential), absolute."""
    alpha: float = 0.05
    """Error level of each sequential test."""
    harm_alpha: float | None = None
    """Error level of the test for harm where it differs: this step's part of what the whole rollout may spend."""
    paired: bool = False
    """Compare mirrored requests pair by pair instead of two arms of users (sequential)."""
    min_runs: int = 1
    """Matured candidate runs asked for."""
    since: datetime | None = None
    """Runs that started before do not count."""
    baseline_since: datetime | None = None
    """Start of the stable arm's evidence where it differs: a control from before the step, not a concurrent one."""
    now: datetime | None = None
    """Instant of the analysis; decides maturity."""
    maturity_s: float = 0.0
    """Seconds after a run's end before it counts."""
    rollout: str = ""
    """UID of the rollout whose assignments count."""
    candidate_digest: str = ""
    """Weights of the candidate arm."""
    stable_digest: str = ""
    """Weights of the stable arm."""
    most_bad: float = 1.0
    """Largest share of unreadable files with which non-inferiority is still believed: they may hide one arm's harm."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.tolerance):
            raise ValueError(f"tolerance must be a number, got {self.tolerance}")
        if self.min_runs < 1:
            raise ValueError(f"min_runs must be at least 1, got {self.min_runs}")
        if not 0.0 <= self.most_bad <= 1.0:
            raise ValueError(f"most_bad must lie between 0 and 1, got {self.most_bad}")
        if not self.maturity_s >= 0:
            raise ValueError(f"maturity_s cannot be negative, got {self.maturity_s}")
        if self.maturity_s and self.now is None:
            raise ValueError("maturity_s needs `now`")
        if self.paired and self.method != "sequential":
            raise ValueError("mirrored requests are compared by method sequential alone: set spec.analysis.method")
        SequentialConfig(alpha=self.alpha, margin=self.margin)
        SequentialConfig(alpha=self.harm_level, margin=self.margin)

    @property
    def harm_level(self) -> float:
        """Error level of the test for harm."""
        return self.alpha if self.harm_alpha is None else self.harm_alpha

    def begins(self, variant: str) -> datetime | None:
        """Start of an arm's evidence."""
        earlier = self.baseline_since if variant == Variant.BASELINE else None
        return self.since if earlier is None else earlier


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """Runs that count, and how many do not."""

    runs: list[Run]
    immature: int
    foreign: int
    foreign_stable: int
    undated: int
    share: float | None
    newest: datetime | None


def _is_foreign(run: Run, config: ShadowConfig) -> bool:
    """Tell whether other weights or another rollout served a run; an unknown digest is not ours."""
    arms = {Variant.CANDIDATE: config.candidate_digest, Variant.BASELINE: config.stable_digest}
    digest = (arms | {Variant.MIRROR: config.candidate_digest}).get(
        run.variant,  # type: ignore[call-overload]
        "",
    )
    return bool((config.rollout and run.rollout != config.rollout) or (digest and run.model_digest != digest))


def _select(runs: Iterable[Run], config: ShadowConfig) -> _Evidence:
    """Keep what counts, in the order in which the runs ended: a later analysis sees the earlier one's runs first."""
    needs_dates = config.since is not None or config.maturity_s > 0 or config.method == "sequential"
    kept: list[Run] = []
    immature = foreign = foreign_stable = undated = 0
    served = {Variant.CANDIDATE: 0, Variant.BASELINE: 0, Variant.MIRROR: 0}
    newest: datetime | None = None
    for run in runs:
        if needs_dates and (run.started_at is None or run.ended_at is None):
            undated += 1
            continue
        begins = config.begins(run.variant)
        if begins is not None and (run.started_at is None or run.started_at < begins):
            continue
        if _is_foreign(run, config):
            foreign += run.variant in (Variant.CANDIDATE, Variant.MIRROR)
            foreign_stable += run.variant == Variant.BASELINE
            continue
        if run.ended_at is not None:
            newest = run.ended_at if newest is None else max(newest, run.ended_at)
        in_step = config.since is None or (run.started_at is not None and run.started_at >= config.since)
        if run.variant in served and in_step:
            served[Variant(run.variant)] += 1
        if config.now is not None and run.ended_at is not None:
            matures = run.ended_at + timedelta(seconds=config.maturity_s)
            if matures > config.now:
                immature += 1
                continue
        kept.append(run)
    kept.sort(key=lambda run: (run.ended_at.timestamp() if run.ended_at else 0.0, run.tenant, run.run_id))
    # A copied request has two runs: its share is of what users sent.
    copied = served.pop(Variant.MIRROR)
    total = served[Variant.BASELINE] if config.paired else sum(served.values())
    return _Evidence(
        runs=kept,
        immature=immature,
        foreign=foreign,
        foreign_stable=foreign_stable,
        undated=undated,
        share=(copied if config.paired else served[Variant.CANDIDATE]) / total if total else None,
        newest=newest,
    )


def summarize_arm(variant: str, runs: Sequence[Run]) -> VariantSummary:
    """Count one arm."""
    steps = sum(run.steps for run in runs)
    escalations = sum(run.escalations for run in runs)
    failures = sum(run.failures for run in runs)
    escalated = sum(run.escalations > 0 for run in runs)
    return VariantSummary(
        variant=variant,
        run_count=len(runs),
        step_count=steps,
        escalation_count=escalations,
        failure_count=failures,
        escalation_rate=round(escalations / steps, 4) if steps else 0.0,
        failure_rate=round(failures / steps, 4) if steps else 0.0,
        escalated_runs=escalated,
        run_escalation_rate=escalated / len(runs) if runs else 0.0,
    )


def escalation_delta(baseline: VariantSummary, candidate: VariantSummary) -> Fraction:
    """Candidate's step escalation rate minus the baseline's, exact: no rounding can turn a regression into a tie."""
    return Fraction(candidate.escalation_count, candidate.step_count) - Fraction(
        baseline.escalation_count, baseline.step_count
    )


def _comparison(arms: dict[str, VariantSummary]) -> ShadowComparison | None:
    baseline, candidate = arms.get(Variant.BASELINE), arms.get(Variant.CANDIDATE)
    if baseline is None or candidate is None or not baseline.step_count or not candidate.step_count:
        return None
    delta = escalation_delta(baseline, candidate)
    failures = candidate.failure_count / candidate.step_count - baseline.failure_count / baseline.step_count
    return ShadowComparison(
        escalation_rate_delta=round(float(delta), 4),
        failure_rate_delta=round(failures, 4),
        candidate_escalation_rate_lower=delta <= 0,
        baseline_runs=baseline.run_count,
        candidate_runs=candidate.run_count,
    )


def _dealt(runs: Sequence[Run], min_runs: int) -> list[Run]:
    """Deal a control from before the step out to the candidate's runs, evenly over the runs that were asked for.

    Both arms keep their order and the shares depend on counts alone, so that a later analysis begins like this one.
    """
    stable = [run for run in runs if run.variant == Variant.BASELINE]
    each = max(1, len(stable) // min_runs)
    dealt: list[Run] = []
    candidates = [run for run in runs if run.variant == Variant.CANDIDATE]
    for position, run in enumerate(candidates):
        dealt += [*stable[position * each : (position + 1) * each], run]
    return dealt


def _e_process(runs: Sequence[Run], config: ShadowConfig) -> EProcess:
    """Run both sequential tests over the runs of the two arms, in their order."""
    arms = [run for run in runs if run.variant in (Variant.BASELINE, Variant.CANDIDATE)]
    if config.baseline_since is not None and config.baseline_since != config.since:
        arms = _dealt(arms, config.min_runs)
    settings = SequentialConfig(alpha=config.alpha, margin=config.margin)
    blocks = blocks_of([run.variant == Variant.CANDIDATE for run in arms], [run.escalations > 0 for run in arms])
    return _state(e_path(blocks, settings), config)


def _paired_process(pairs: Joined, config: ShadowConfig) -> EProcess:
    return _state(paired_e_path(pairs.differences, config.margin), config)


def _state(path: EPath, config: ShadowConfig) -> EProcess:
    # starts at one before any block; beyond e^700 a double ends, and no decision depends on it
    harm = max([0.0, *path.log_harm.tolist()])
    safe = path.log_safe.tolist()[-1] if path.log_safe.size else 0.0
    return EProcess(
        harm=math.exp(min(harm, 700.0)),
        non_inferiority=math.exp(max(-700.0, min(safe, 700.0))),
        threshold=1.0 / config.alpha,
        harm_threshold=1.0 / config.harm_level,
    )


def _tolerance_verdict(baseline: VariantSummary, candidate: VariantSummary, config: ShadowConfig) -> ShadowVerdict:
    if candidate.run_count < config.min_runs or baseline.run_count < min(config.min_runs, FEWEST_STABLE_RUNS):
        return ShadowVerdict.INSUFFICIENT
    if escalation_delta(baseline, candidate) > Fraction(str(config.tolerance)):
        return ShadowVerdict.HARM
    return ShadowVerdict.NON_INFERIOR


def _sequential_verdict(candidate: VariantSummary, process: EProcess, config: ShadowConfig) -> ShadowVerdict:
    """Harm counts at any time; everything else waits for the runs that were asked for."""
    if process.harm >= process.harm_threshold:
        return ShadowVerdict.HARM
    if candidate.run_count < config.min_runs:
        return ShadowVerdict.INSUFFICIENT
    return ShadowVerdict.NON_INFERIOR if process.non_inferiority >= process.threshold else ShadowVerdict.UNDECIDED


@cache
def evaluator_digest() -> str:
    """Return the digest of the code that an analysis rests on: reading, labels, arms and statistics."""
    root = Path(__file__).parent
    files = [root / "shadow.py", root / "shadow_pairs.py", root / "runs.py", Path(ladder.__file__)]
    files += sorted((root / "statistics").glob("*.py"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"sha256:{digest.hexdigest()}"


def analyze(found: RunSet, config: ShadowConfig) -> ShadowSummary:
    """Judge the arms by the runs that count."""
    evidence = _select(found.runs, config)
    by_variant: dict[str, list[Run]] = {}
    for run in evidence.runs:
        by_variant.setdefault(run.variant, []).append(run)
    pairs = join(evidence.runs) if config.paired else None
    if pairs is not None:
        by_variant[Variant.BASELINE], by_variant[Variant.CANDIDATE] = pairs.stable, pairs.mirrored
    arms = {name: summarize_arm(name, runs) for name, runs in sorted(by_variant.items())}
    comparison = _comparison(arms)
    process = None
    if config.method == "sequential":
        process = _e_process(evidence.runs, config) if pairs is None else _paired_process(pairs, config)
    if comparison is None:
        verdict = ShadowVerdict.NO_DATA
    elif process is None:
        verdict = _tolerance_verdict(arms[Variant.BASELINE], arms[Variant.CANDIDATE], config)
    else:
        verdict = _sequential_verdict(arms[Variant.CANDIDATE], process, config)
    bad_files = len(found.bad) + evidence.undated
    if verdict == ShadowVerdict.NON_INFERIOR and bad_files > config.most_bad * found.files:
        verdict = ShadowVerdict.UNDECIDED
    bad = list(found.bad)
    if evidence.undated:
        bad.append(f"{evidence.undated} traces: no readable `started_at` and `ended_at`")
    return ShadowSummary(
        variants=arms,
        comparison=comparison,
        verdict=verdict,
        method=config.method,
        e_process=process,
        since=format_instant(config.since, "milliseconds") if config.since else "",
        immature_runs=evidence.immature,
        foreign_runs=evidence.foreign,
        foreign_stable_runs=evidence.foreign_stable,
        bad_files=bad_files,
        bad_examples=bad[:5],
        min_runs=config.min_runs,
        candidate_digest=config.candidate_digest,
        last_run_at=format_instant(evidence.newest, "milliseconds") if evidence.newest else "",
        candidate_share=evidence.share,
        evaluator=evaluator_digest(),
        pairs=pairs.counts if pairs is not None else None,
        traces=found.files,
    )


def describe(summary: ShadowSummary) -> str:
    """Write a summary for a terminal."""
    lines = [f"{'arm':<16}{'runs':>8}{'steps':>9}{'escalated':>11}{'rate':>9}{'failed':>9}{'rate':>9}{'run rate':>10}"]
    for name, arm in summary.variants.items():
        lines.append(
            f"{name:<16}{arm.run_count:>8}{arm.step_count:>9}{arm.escalation_count:>11}{arm.escalation_rate:>9.4f}"
            f"{arm.failure_count:>9}{arm.failure_rate:>9.4f}{arm.run_escalation_rate:>10.4f}"
        )
    if summary.comparison is not None:
        lines.append(f"candidate escalates {summary.comparison.escalation_rate_delta:+.4f} a step against the baseline")
    if summary.e_process is not None:
        process = summary.e_process
        lines.append(
            f"e-values: harm {process.harm:.3g}, shown at {process.harm_threshold:.0f}; "
            f"non-inferiority {process.non_inferiority:.3g}, shown at {process.threshold:.0f}"
        )
    if summary.pairs is not None:
        pairs = summary.pairs
        lines.append(
            f"{pairs.joined} mirrored requests: {pairs.only_candidate} escalated with the candidate alone, "
            f"{pairs.only_stable} with the stable arm alone; {pairs.unmatched} could not be joined"
        )
    candidate = summary.variants.get(Variant.CANDIDATE)
    lines.append(f"{candidate.run_count if candidate else 0} of {summary.min_runs} matured candidate runs")
    for count, what in (
        (summary.immature_runs, "runs ended too recently to count"),
        (summary.foreign_runs + summary.foreign_stable_runs, "runs were served by other weights or another rollout"),
        (summary.bad_files, "files could not be read as a trace"),
    ):
        if count:
            lines.append(f"{count} {what}")
    lines += [f"  {example}" for example in summary.bad_examples]
    lines.append(f"verdict: {summary.verdict}")
    return "\n".join(lines)
