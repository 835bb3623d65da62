"""Writes what is generated from the catalogue: `python -m sluice_operator.monitoring`.

The PrometheusRule, the Grafana dashboard and the table of metrics in `docs/monitoring.md`. With `--check` nothing is
written, and a file that differs is an error. `--set` and `--runbooks` adapt the rules to your installation.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from sluice_operator.monitoring import catalogue
from sluice_operator.monitoring.dashboard import dashboard, expressions
from sluice_operator.monitoring.queries import problems
from sluice_operator.monitoring.rules import RuleConfig, alerts, prometheus_rule, recording_rules, rule_groups

RULE_FILE = Path("charts/sluice/monitoring/prometheusrule.yaml")
"""The PrometheusRule."""
DASHBOARD_FILE = Path("charts/sluice/dashboards/sluice-rollouts.json")
"""The dashboard."""
DOCUMENT = Path("docs/monitoring.md")
"""The page that holds the tables."""
RUNBOOKS = Path("docs/runbooks")
"""One page for each alert."""
HEADER = "# Generated from operator/sluice_operator/monitoring by `make monitoring`. Do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as one: queries stay readable."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(document: Mapping[str, object]) -> str:
    """Return a document in YAML."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return text


def metrics_table() -> str:
    """Return the table of all metrics, in Markdown."""
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for metric in catalogue.ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        name = metric.series if metric.kind != "histogram" else metric.name
        rows.append(f"| `{name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows) + "\n"


def alerts_table(config: RuleConfig) -> str:
    """Return the table of all alerts, in Markdown."""
    rows = ["| alert | severity | for | runbook |", "|---|---|---|---|"]
    for alert in alerts(config):
        rows.append(f"| `{alert.name}` | {alert.severity} | {alert.lasting} | [page](runbooks/{alert.name}.md) |")
    return "\n".join(rows) + "\n"


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """Return a page with each table between its markers. Raises ValueError where a marker is missing."""
    for name, table in tables.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        head, found, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{DOCUMENT} lacks the marker {begin.strip()!r} or {end.strip()!r}")
        page = head + begin + table + end + tail
    return page


def wrong_names(config: RuleConfig) -> list[str]:
    """Return every query of the rules and the dashboard that names what is not in the catalogue."""
    asked = [(rule["record"], rule["expr"]) for rule in recording_rules(config)]
    asked += [(alert.name, alert.expression) for alert in alerts(config)]
    asked += expressions(dashboard(config))
    return [f"{where}: {problem}" for where, expression in asked for problem in problems(expression)]


def missing_runbooks(config: RuleConfig, root: Path) -> list[str]:
    """Return a complaint for each alert without a runbook page, and for each page without an alert."""
    names = {alert.name for alert in alerts(config)}
    pages = {path.stem for path in (root / RUNBOOKS).glob("Sluice*.md")}
    result = [f"{RUNBOOKS}/{name}.md: missing; {name} refers to it" for name in sorted(names - pages)]
    return result + [f"{RUNBOOKS}/{name}.md: no alert refers to it" for name in sorted(pages - names)]


def render(config: RuleConfig, root: Path) -> dict[Path, str]:
    """Return the text of every generated file, by its path below `root`."""
    page = (root / DOCUMENT).read_text(encoding="utf-8")
    tables = {"metrics": metrics_table(), "alerts": alerts_table(config)}
    board = json.dumps(dashboard(config), indent=2, ensure_ascii=False, sort_keys=True)
    return {
        RULE_FILE: HEADER + as_yaml(prometheus_rule(config)),
        DASHBOARD_FILE: board + "\n",
        DOCUMENT: with_tables(page, tables),
    }


def configured(settings: list[str], runbooks: str | None) -> RuleConfig:
    """Return the rules' parameters with `name=value` settings. Raises ValueError."""
    types = {each.name: each.type for each in dataclasses.fields(RuleConfig)}
    given: dict[str, str | float | int] = {} if runbooks is None else {"runbooks": runbooks}
    for setting in settings:
        name, found, value = setting.partition("=")
        if not found or name not in types:
            raise ValueError(f"--set {setting}: give name=value with one of {', '.join(types)}")
        kind = {"int": int, "float": float}.get(str(getattr(types[name], "__name__", types[name])), str)
        given[name] = kind(value)
    return RuleConfig(**given)  # type: ignore[arg-type]


def main(argv: list[str] | None = None) -> int:
    """Write the files, or with `--check` compare them; exit 1 when something differs or does not fit together."""
    parser = argparse.ArgumentParser(prog="python -m sluice_operator.monitoring", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="the project's root")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file would change")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the rules")
    parser.add_argument("--runbooks", metavar="URL", help="where your copy of docs/runbooks is served")
    parser.add_argument("--print", choices=("rule", "groups"), help="print the rules in YAML, and write nothing")
    arguments = parser.parse_args(argv)
    try:
        config = configured(arguments.set, arguments.runbooks)
    except ValueError as error:
        print(f"python -m sluice_operator.monitoring: {error}", file=sys.stderr)
        return 2
    if arguments.print:
        wanted = prometheus_rule(config) if arguments.print == "rule" else rule_groups(config)
        print(as_yaml(wanted), end="")
        return 0
    complaints = wrong_names(config) + missing_runbooks(config, arguments.root)
    for path, text in render(config, arguments.root).items():
        target = arguments.root / path
        if not arguments.check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            complaints.append(f"{path}: differs from its source; run `make monitoring`")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
