"""The Grafana dashboard, made from the catalogue's names. Import it, or let Grafana's sidecar find it."""

from collections.abc import Sequence

from sluice_operator.monitoring import catalogue
from sluice_operator.monitoring.panels import (
    BAD,
    WIDTH,
    Json,
    Panel,
    evidence_panels,
    history_panels,
    operator_panels,
    selected,
    traffic_panels,
)
from sluice_operator.monitoring.rules import RuleConfig

TITLE = "Sluice rollouts"
"""Title."""
UID = "sluice-rollouts"
"""Stable identity: importing again replaces the dashboard."""
SCHEMA = 39
"""Version of Grafana's dashboard schema (Grafana 10 and later read it)."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _as_json(panel: Panel, number: int, x: int, y: int) -> Json:
    targets = [
        {
            "refId": chr(ord("A") + place),
            "datasource": DATASOURCE,
            "expr": expression,
            "legendFormat": legend,
            **({"instant": True, "range": False} if panel.instant else {"range": True}),
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for place, (expression, legend) in enumerate(panel.queries)
    ]
    overrides = [
        {
            "matcher": {"id": "byRegexp", "options": pattern},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for pattern, colour in panel.colours.items()
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": targets,
        "options": panel.options,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": panel.custom, **panel.defaults},
            "overrides": overrides,
        },
    }


def _laid_out(sections: Sequence[tuple[str, Sequence[Panel]]]) -> list[Json]:
    """Return rows and panels from left to right, top to bottom."""
    result: list[Json] = []
    y = 0
    for title, panels in sections:
        result.append({"id": len(result) + 1, "type": "row", "title": title, "collapsed": False, "panels": []})
        result[-1]["gridPos"] = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        x, y, tallest = 0, y + 1, 0
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            result.append(_as_json(panel, len(result) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return result


def _variable(label: str, query: str) -> Json:
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "variable"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(config: RuleConfig) -> Json:
    """Return the dashboard."""
    step = catalogue.STEP.series
    rollouts = [*traffic_panels(), *evidence_panels(config), *history_panels()]
    ended = selected(catalogue.DECIDED, 'decision="RolledBack"')
    rolled_back = f"sum by (namespace, name) (increase({ended}[1m])) > 0"
    return {
        "uid": UID,
        "title": TITLE,
        "tags": ["sluice"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": config.interval,
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                _variable("namespace", f"label_values({step}, namespace)"),
                _variable("name", f'label_values({step}{{namespace=~"$namespace"}}, name)'),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Rolled back",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "expr": rolled_back,
                    "iconColor": BAD,
                    "titleFormat": "rolled back",
                    "textFormat": "{{namespace}}/{{name}}",
                }
            ]
        },
        "panels": _laid_out([("Rollouts", rollouts), ("Operator", operator_panels())]),
    }


def expressions(board: Json) -> list[tuple[str, str]]:
    """Return every query of a dashboard with the title of what asks it."""
    found = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]
    found += [(entry["name"], entry["expr"]) for entry in board["annotations"]["list"]]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inner = variable["definition"].removeprefix("label_values(").rpartition(",")[0]
            found.append((variable["name"], inner))
    return found
