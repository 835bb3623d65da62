"""One self-contained page of a comparison or a scorecard: no script, no font, nothing fetched.

Everything that came from a model or a file is escaped: a transcript is evidence, never markup.
"""

from collections.abc import Iterable, Sequence
from html import escape

from sluice_api.contracts.evaluation import CompareReport, CompareVerdict, EvalReport, TaskResult
from sluice_api.contracts.scorecard import Direction, GateResult, GateVerdict, Scorecard

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #d9dee6; --page: #fff; --tint: #f4f6f9;
  --good: #1a7f4b; --bad: #b3261e; --unsure: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf1; --soft: #9aa5b6; --line: #333b48; --page: #14181f;
  --tint: #1c222c; --good: #58c98c; --bad: #ff8a80; --unsure: #e0b44a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.lead { color: var(--soft); margin: 0 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
td.number { text-align: right; }
.verdict { font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .unsure { color: var(--unsure); }
.source { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
svg { display: block; } svg .track { fill: var(--line); } svg .span { fill: var(--soft); opacity: .55; }
svg .mark { fill: var(--ink); } svg .limit { stroke: var(--bad); stroke-width: 2; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; }
summary { padding: .5rem .75rem; cursor: pointer; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1px;
  background: var(--line); }
.sides section { background: var(--page); padding: .75rem; min-width: 0; }
.sides h3 { font-size: .85rem; color: var(--soft); margin: 0 0 .5rem; }
pre { background: var(--tint); padding: .6rem; margin: 0; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
"""
_TRANSCRIPT = 4000
_MOST_TASKS = 200


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


def _bar(low: float, high: float, value: float, limit: float | None, label: str) -> str:
    """Draw an interval on a track from 0 to 1, the value as a mark and the threshold as a line."""
    width = 160

    def at(x: float) -> float:
        return round(max(0.0, min(1.0, x)) * width, 1)

    line = "" if limit is None else f'<line class="limit" x1="{at(limit)}" x2="{at(limit)}" y1="1" y2="19"/>'
    return (
        f'<svg width="{width}" height="20" role="img" aria-label="{escape(label)}">'
        f'<rect class="track" x="0" y="9" width="{width}" height="2"/>'
        f'<rect class="span" x="{at(low)}" y="6" width="{max(1.0, at(high) - at(low))}" height="8"/>'
        f'<rect class="mark" x="{max(0.0, at(value) - 1.5)}" y="4" width="3" height="12"/>{line}</svg>'
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


def _gate_row(gate: GateResult) -> str:
    sign = "≥" if gate.direction == Direction.MIN else "≤"
    missing = gate.verdict == GateVerdict.MISSING
    value = "—" if missing else f"{gate.value:.4f}"
    asks = "—" if gate.threshold is None else f"{sign} {gate.threshold:.2f}"
    label = f"{gate.name}: {value}, asks {asks}"
    bar = ""
    if gate.interval is not None:
        label += f", 95 % interval {gate.interval[0]:.3f} to {gate.interval[1]:.3f}"
        bar = _bar(gate.interval[0], gate.interval[1], gate.value, gate.threshold, label)
    says = "; ".join(part for part in (gate.note, gate.detail) if part)
    return (
        f'<tr><th scope="row">{escape(gate.name)}</th><td class="number">{value}</td><td>{escape(asks)}</td>'
        f'<td class="number">{"" if gate.n is None else gate.n}</td><td>{bar}</td>'
        f'<td>{_verdict(gate.verdict)}</td><td>{escape(says)}<div class="source">{escape(gate.source)}</div></td></tr>'
    )


def scorecard_page(scorecard: Scorecard) -> str:
    """Draw a scorecard: every gate with its value, threshold, interval, verdict and source."""
    refused = "".join(f"<li>{escape(reason)}</li>" for reason in scorecard.metadata.get("refused_evidence", []))
    body = f"<p>Verdict: {_verdict(scorecard.verdict)}; by the seed's rule "
    body += f"{'every judged gate passed' if scorecard.overall_passed else 'a gate failed'}.</p>"
    head = ("gate", "value", "asks", "n", "95 % interval, threshold in red", "verdict", "evidence")
    body += _table(head, (_gate_row(gate) for gate in scorecard.gates))
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
    return (
        f"<section><h3>{escape(name)}: {verdict}</h3><pre>{escape(shown) or '(no output)'}</pre>"
        + (f"<ul>{notes}</ul>" if notes else "")
        + "</section>"
    )


def _pairs(title: str, tasks: Sequence[str], baseline: EvalReport, candidate: EvalReport) -> str:
    if not tasks:
        return f"<h2>{escape(title)}</h2><p>None.</p>"
    ours = {result.task_id: result for result in candidate.results}
    theirs = {result.task_id: result for result in baseline.results}
    drawn = "".join(
        f"<details><summary>{escape(task)}</summary>"
        f'<div class="sides">{_side("baseline", theirs[task])}{_side("candidate", ours[task])}</div></details>'
        for task in tasks[:_MOST_TASKS]
    )
    rest = f"<p>… and {len(tasks) - _MOST_TASKS} more.</p>" if len(tasks) > _MOST_TASKS else ""
    return f"<h2>{escape(title)} ({len(tasks)})</h2>{drawn}{rest}"


def compare_page(report: CompareReport, baseline: EvalReport, candidate: EvalReport) -> str:
    """Draw a comparison: figures, the interval of the difference, and the tasks that differ side by side."""
    low, high = report.interval
    delta = (report.candidate_wins - report.candidate_losses) / report.common_task_count
    label = f"paired difference {delta:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, on a scale from -1 to 1"
    # the difference lies between -1 and 1: the track shows that range, its middle is no difference
    bar = _bar((low + 1) / 2, (high + 1) / 2, (delta + 1) / 2, 0.5, label)
    figures = (
        ("verdict", _verdict(report.verdict)),
        ("baseline pass rate", f"{report.baseline_pass_rate:.1%}"),
        ("candidate pass rate", f"{report.candidate_pass_rate:.1%}"),
        ("common tasks", str(report.common_task_count)),
        ("wins, losses", f"{report.candidate_wins}, {report.candidate_losses}"),
        ("paired difference", f"{delta:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}{bar}"),
        ("exact McNemar, two-sided", f"p = {report.p_value:.4f} at a level of {report.alpha:.4f}"),
        ("smallest difference that this could show", f"{report.minimum_detectable_effect:.1%}"),
        ("left out, not judged on a side", str(report.infra_excluded)),
    )
    rows = (f'<tr><th scope="row">{escape(name)}</th><td>{value}</td></tr>' for name, value in figures)
    body = _table(("figure", "value"), rows)
    body += _pairs("Regressions", report.regressions, baseline, candidate)
    body += _pairs("Improvements", report.improvements, baseline, candidate)
    return _page("Candidate against baseline", f"{candidate.name} against {baseline.name}", body)
