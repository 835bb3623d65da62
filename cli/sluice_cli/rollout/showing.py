"""`get`: a picture of the rollout, once or whenever it changes."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sluice_cli.kube import KubeApi, KubeError
from sluice_cli.lineage import DATASET, EVALUATION, ROLLOUT, RUN, SCORECARD, Lineage, Link, Objects, lineage_of
from sluice_cli.rollout.tree import console, render
from sluice_cli.rollout.view import rollout_view
from sluice_cli.rollout.waiting import REDRAW_S, Exit, Follower


def look(api: KubeApi, namespace: str, rollout: Mapping[str, Any]) -> Lineage:
    """Return a rollout's lineage with what stands behind it now. Raises KubeError."""
    items = [item for kind in (DATASET, RUN, EVALUATION, SCORECARD) for item in api.list(kind, namespace)]
    return lineage_of(Link(ROLLOUT, str(rollout["metadata"]["name"]), rollout), Objects.of(items))


def not_found(namespace: str, name: str) -> Exit:
    """Say that there is no such rollout."""
    print(f"sluice rollout: no ShadowRollout {name} in namespace {namespace}", file=sys.stderr)
    return Exit.UNJUDGED


def show(api: KubeApi, namespace: str, name: str, *, watch: bool, as_json: bool, no_color: bool) -> Exit:
    """Show a rollout; with `watch` until it is gone or the user ends it. Raises KubeError."""
    rollout = api.get(ROLLOUT, namespace, name)
    if rollout is None:
        return not_found(namespace, name)
    if as_json:
        print(json.dumps(_as_json(look(api, namespace, rollout)), indent=2, ensure_ascii=False))
        return Exit.DONE
    screen = console(no_color=no_color)
    if not watch:
        screen.print(render(rollout_view(look(api, namespace, rollout), datetime.now(UTC))))
        return Exit.DONE
    if screen.is_terminal:
        return _live(api, namespace, name, screen)
    return _lines(api, namespace, name, screen)


def _live(api: KubeApi, namespace: str, name: str, screen: Any) -> Exit:
    """Redraw one picture in place."""
    from rich.live import Live

    with Follower(api, namespace, name) as follower, Live(console=screen, refresh_per_second=1 / REDRAW_S) as live:
        for rollout in follower.looks(None):
            if rollout is None:
                break
            picture = _picture(api, namespace, rollout)
            if picture is not None:
                live.update(picture)
    return _gone(name)


def _lines(api: KubeApi, namespace: str, name: str, screen: Any) -> Exit:
    """Print a picture under the one before whenever something changed: for a pipe or a log."""
    before = ""
    with Follower(api, namespace, name) as follower:
        for rollout in follower.looks(None):
            if rollout is None:
                break
            version = str(rollout["metadata"]["resourceVersion"])
            picture = _picture(api, namespace, rollout) if version != before else None
            if picture is not None:
                screen.print(picture)
                screen.print()
                screen.file.flush()
                before = version
    return _gone(name)


def _picture(api: KubeApi, namespace: str, rollout: Mapping[str, Any]) -> Any:
    """Return the picture of a rollout; None while the API server does not answer: the one before stays."""
    try:
        return render(rollout_view(look(api, namespace, rollout), datetime.now(UTC)))
    except KubeError as error:
        if error.status is not None and error.status < 500 and error.status != 429:
            raise
        return None


def _gone(name: str) -> Exit:
    print(f"ShadowRollout {name} was deleted", file=sys.stderr)
    return Exit.DONE


def _as_json(lineage: Lineage) -> dict[str, Any]:
    links = (lineage.rollout, lineage.dataset, lineage.run, *lineage.evaluations, lineage.scorecard, *lineage.steps)
    return {
        "namespace": lineage.namespace,
        "name": lineage.name,
        "objects": [
            {"kind": link.kind, "name": link.name, "phase": link.phase, "object": link.found} for link in links if link
        ],
    }
