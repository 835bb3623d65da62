"""One self-contained page of a comparison or a scorecard: no script, no font, nothing fetched.

Everything that came from a model or a file is escaped: a transcript is evidence, never markup.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sluice_api.contracts.evaluation import CompareReport, CompareVerdict, EvalReport, TaskResult
from sluice_api.contracts.scorecard import Direction, GateResult, GateVerdict, Scorecard, ScorecardVerdict

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #d9dee6; --page: #fff; --tint: #f4f6f9;
  --good: #1a7f4b; --bad: #b3261e; --unsure: #8a6100; --good-tint: #dff3e7; --bad-tint: #fae3e1;
  --unsure-tint: #fbf0d5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf1; --soft: #9aa5b6; --line: #333b48; --page: #14181f;
  --tint: #1c222c; --good: #58c98c; --bad: #ff8a80; --unsure: #e0b44a; --good-tint: #17351f; --bad-tint: #41201d;
  --unsure-tint: #3a2f12; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.lead { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
.banner { border-radius: .5rem; padding: .75rem 1rem; margin: 1rem 0; background: var(--unsure-tint); }
.banner strong { font-size: 1.25rem; margin-right: .5rem; }
.banner.good { background: var(--good-tint); } .banner.bad { background: var(--bad-tint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
tbody th { color: var(--ink); font-size: .95rem; white-space: nowrap; }
td.number { text-align: right; } td.number, td.asks { white-space: nowrap; }
.verdict { font-weight: 600; }
.good .verdict, .good { color: var(--good); } .bad .verdict, .bad { color: var(--bad); }
.unsure .verdict, .unsure { color: var(--unsure); } .banner { color: var(--ink); }
.source { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
svg { display: block; } svg text { fill: var(--soft); font-size: 10px; }
svg .track { fill: var(--line); } svg .zone { fill: var(--good); opacity: .22; }
svg .span { fill: var(--soft); opacity: .65; } svg .mark { fill: var(--ink); }
svg .limit { stroke: var(--bad); stroke-width: 2; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; overflow: hidden; }
summary { padding: .5rem .75rem; cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1px;
  background: var(--line); border-top: 1px solid var(--line); }
.sides section { background: var(--page); padding: .75rem; min-width: 0; }
.sides h3 { font-size: .85rem; color: var(--soft); margin: 0 0 .5rem; }
.sides ul { margin: .5rem 0 0; padding-left: 1.2rem; }
pre { background: var(--tint); padding: .6rem; margin: 0; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .85rem; }
"""
_TRANSCRIPT = 4000
_MOST_TASKS = 200
_OPEN_TASKS = 3
_WIDTH, _PAD = 220.0, 10.0


def _page(title: str, lead: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{body}</main></body></html>\n'
    )


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _window(points: Sequence[float], least: float, most: float) -> tuple[float, float]:
    """Give the part of a scale that holds all points, a quarter wider, rounded outwards to hundredths."""
    low, high = min(points), max(points)
    room = max(0.25 * (high - low), 0.02)
    low, high = max(least, low - room), min(most, high + room)
    return int(low * 100 - (low < 0)) / 100, min(most, int(high * 100 + 1) / 100)


def _gauge(
    interval: tuple[float, float],
    value: float,
    limit: float | None,
    passing: tuple[float, float] | None,
    window: tuple[float, float],
    label: str,
    ends: tuple[str, str],
) -> str:
    """Draw an interval on the part of a scale that matters, the value as a mark and the threshold as a line."""
    first, last = window

    def at(x: float) -> float:
        share = (min(max(x, first), last) - first) / (last - first)
        return round(_PAD + share * (_WIDTH - 2 * _PAD), 1)

    zone = ""
    if passing is not None:
        start, end = at(passing[0]), at(passing[1])
        zone = f'<rect class="zone" x="{start}" y="4" width="{round(end - start, 1)}" height="16"/>'
    line = "" if limit is None else f'<line class="limit" x1="{at(limit)}" x2="{at(limit)}" y1="2" y2="22"/>'
    left, right = at(interval[0]), at(interval[1])
    return (
        f'<svg width="{_WIDTH:.0f}" height="36" role="img" aria-label="{escape(label)}">'
        f'<rect class="track" x="{_PAD}" y="11" width="{_WIDTH - 2 * _PAD}" height="2"/>{zone}'
        f'<rect class="span" x="{left}" y="8" width="{max(1.5, round(right - left, 1))}" height="8" rx="2"/>'
        f'{line}<rect class="mark" x="{round(at(value) - 1.5, 1)}" y="5" width="3" height="14"/>'
        f'<text x="{_PAD}" y="33">{escape(ends[0])}</text>'
        f'<text x="{_WIDTH - _PAD}" y="33" text-anchor="end">{escape(ends[1])}</text></svg>'
    )


_CLASSES = {
    GateVerdict.PASS.value: "good",
    GateVerdict.FAIL.value: "bad",
    CompareVerdict.BETTER.value: "good",
    CompareVerdict.WORSE.value: "bad",
    CompareVerdict.EQUIVALENT.value: "good",
}


def _verdict(value: str) -> str:
    return f'<span class="verdict {_CLASSES.get(value, "unsure")}">{escape(value)}</span>'


def _banner(value: str, says: str) -> str:
    """Say the verdict, and in one sentence what it rests on."""
    kind = _CLASSES.get(value, "unsure")
    return f'<p class="banner {kind}"><strong class="{kind}">{escape(value)}</strong>{escape(says)}</p>'


def _short(source: str) -> str:
    """Shorten a digest for the eye; the whole of it stands in the title."""
    if not source.startswith("sha256:"):
        return escape(source)
    return f'<span title="{escape(source)}">{escape(source[:19])}…</span>'


def _gate_row(gate: GateResult) -> str:
    least = gate.direction == Direction.MIN
    missing = gate.note and not gate.value
    value = "—" if missing else f"{gate.value:.4f}"
    asks = "—" if gate.threshold is None else f"{'≥' if least else '≤'} {gate.threshold:.2f}"
    label = f"{gate.name}: {value}, asks {asks}"
    gauge = ""
    if gate.interval is not None:
        label += f", 95 % interval {gate.interval[0]:.3f} to {gate.interval[1]:.3f}"
        points = [*gate.interval, gate.value, *([] if gate.threshold is None else [gate.threshold])]
        window, passing = _window(points, 0.0, 1.0), None
        if gate.threshold is not None:
            passing = (gate.threshold, window[1]) if least else (window[0], gate.threshold)
        ends = (f"{window[0]:.2f}", f"{window[1]:.2f}")
        gauge = _gauge(gate.interval, gate.value, gate.threshold, passing, window, label, ends)
    says = "; ".join(part for part in (gate.note, gate.detail) if part)
    return (
        f'<tr><th scope="row">{escape(gate.name)}</th><td class="number">{value}</td>'
        f'<td class="asks">{escape(asks)}</td><td class="number">{"" if gate.n is None else gate.n}</td>'
        f"<td>{gauge}</td><td>{_verdict(gate.verdict)}</td>"
        f'<td>{escape(says)}<div class="source">{_short(gate.source)}</div></td></tr>'
    )


_RESTS_ON = {
    ScorecardVerdict.PASS: "every gate that is required passed, none failed, and nothing was refused.",
    ScorecardVerdict.FAIL: "a gate fails, or the candidate is worse than the champion.",
    ScorecardVerdict.INCONCLUSIVE: "nothing was shown to fail, and not enough was shown to pass.",
}


def _comparison_of(scorecard: Scorecard) -> str:
    """Write what the comparison with the champion was charged, where there is one."""
    record = scorecard.metadata.get("comparison")
    if not isinstance(record, Mapping):
        verdict = scorecard.metadata.get("comparison_verdict")
        return f"<p>Comparison with the champion: {_verdict(str(verdict))}.</p>" if verdict else ""
    shown: dict[str, Any] = {key: record.get(key) for key in ("p_value", "level", "candidate", "spent", "budget")}
    text = (
        "p = {p_value:.4f} at a level of {level:.4f}; comparison number {candidate} with this champion, "
        "{spent:.4f} of the error budget of {budget:g} spent"
    )
    return (
        f"<p>Comparison with the champion: {_verdict(str(record.get('verdict')))}, {escape(text.format(**shown))}.</p>"
    )


def scorecard_page(scorecard: Scorecard) -> str:
    """Draw a scorecard: every gate with its value, threshold, interval, verdict and source."""
    counts = [f"{sum(gate.verdict == kind for gate in scorecard.gates)} {kind.value}" for kind in GateVerdict]
    body = _banner(scorecard.verdict.value, f"{_RESTS_ON[scorecard.verdict]} Gates: {', '.join(counts)}.")
    rule = "every gate that could be judged passed" if scorecard.overall_passed else "a gate failed"
    body += f"<p>By the rule that skips what is missing, {rule}.</p>{_comparison_of(scorecard)}"
    head = ("gate", "value", "asks", "n", "95 % interval; what passes is shaded", "verdict", "evidence")
    body += _table(head, (_gate_row(gate) for gate in scorecard.gates))
    refused = "".join(f"<li>{escape(reason)}</li>" for reason in scorecard.metadata.get("refused_evidence", []))
    if refused:
        body += f"<h2>Refused evidence</h2><ul>{refused}</ul>"
    lead = f"tier {scorecard.tier}, candidate {scorecard.candidate_digest or 'unbound'}, {scorecard.evaluated_at}"
    return _page("Promotion scorecard", lead, body)


def _side(name: str, result: TaskResult) -> str:
    """Draw one side of a task: what was answered, and which criteria did not hold."""
    failed = [f"{item.type}: {item.detail}" for item in result.criterion_results if not item.passed]
    error = [result.outcome.error] if result.outcome.error else []
    notes = "".join(f"<li>{escape(line)}</li>" for line in [*error, *failed])
    text = result.outcome.output
    shown = text[:_TRANSCRIPT] + ("\n…" if len(text) > _TRANSCRIPT else "")
    verdict = '<span class="good">passed</span>' if result.passed else '<span class="bad">failed</span>'
    facts = [result.outcome.status, f"{result.outcome.duration_s:.1f} s", f"${result.outcome.cost:.4f}"]
    return (
        f"<section><h3>{escape(name)}: {verdict} ({escape(', '.join(fact for fact in facts if fact))})</h3>"
        f"<pre>{escape(shown) or '(no output)'}</pre>" + (f"<ul>{notes}</ul>" if notes else "") + "</section>"
    )


def _pairs(title: str, tasks: Sequence[str], baseline: EvalReport, candidate: EvalReport, opened: int) -> str:
    if not tasks:
        return f"<h2>{escape(title)}</h2><p>None.</p>"
    ours = {result.task_id: result for result in candidate.results}
    theirs = {result.task_id: result for result in baseline.results}
    drawn = "".join(
        f"<details{' open' if number < opened else ''}><summary>{escape(task)}</summary>"
        f'<div class="sides">{_side("baseline", theirs[task])}{_side("candidate", ours[task])}</div></details>'
        for number, task in enumerate(tasks[:_MOST_TASKS])
    )
    rest = f"<p>… and {len(tasks) - _MOST_TASKS} more.</p>" if len(tasks) > _MOST_TASKS else ""
    return f"<h2>{escape(title)} ({len(tasks)})</h2>{drawn}{rest}"


def compare_page(report: CompareReport, baseline: EvalReport, candidate: EvalReport) -> str:
    """Draw a comparison: figures, the interval of the difference, and the tasks that differ side by side."""
    low, high = report.interval
    delta = (report.candidate_wins - report.candidate_losses) / report.common_task_count
    window = _window([low, high, delta, 0.0], -1.0, 1.0)
    label = f"paired difference {delta:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, no difference at the line"
    ends = (f"{window[0]:+.0%}", f"{window[1]:+.0%}")
    gauge = _gauge((low, high), delta, 0.0, (0.0, window[1]), window, label, ends)
    figures = (
        ("pass rate", f"baseline {report.baseline_pass_rate:.1%}, candidate {report.candidate_pass_rate:.1%}"),
        ("paired difference", f"{delta:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}{gauge}"),
        ("exact test, two-sided", f"p = {report.p_value:.4f} at a level of {report.alpha:.4f}"),
        ("smallest difference that this could show", f"{report.minimum_detectable_effect:.1%}"),
        ("e-value of better, valid at any look", "—" if report.e_value is None else f"{report.e_value:.3g}"),
        (
            "tasks",
            f"{report.common_task_count} judged on both sides: {report.candidate_wins} wins, "
            f"{report.candidate_losses} losses; {report.infra_excluded} left out, not judged on a side",
        ),
    )
    says = f"{report.candidate_wins} wins and {report.candidate_losses} losses over {report.common_task_count} tasks."
    rows = (f'<tr><th scope="row">{escape(name)}</th><td>{value}</td></tr>' for name, value in figures)
    body = _banner(report.verdict.value, says) + _table(("figure", "value"), rows)
    body += _pairs("Regressions", report.regressions, baseline, candidate, _OPEN_TASKS)
    body += _pairs("Improvements", report.improvements, baseline, candidate, 0)
    weights = " against ".join(
        f"{made.name} ({made.model_digest[:19]}…)" if made.model_digest else made.name for made in (candidate, baseline)
    )
    return _page("Candidate against baseline", weights, body)
