"""`SCORECARD_HISTORY.jsonl`: every scorecard that was ever made, in order, never rewritten."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sluice_api.contracts.scorecard import Scorecard
from sluice_artifacts import ConflictError, NotFoundError, Store, canonical_json, digest_bytes

HISTORY_FILE = "SCORECARD_HISTORY.jsonl"
"""Name of the history below a scorecard's prefix."""
WRITERS = 50
"""Times that a concurrent writer may come first."""


def history_entry(scorecard: Scorecard, *, timestamp: datetime, commit_sha: str, owner: str = "") -> dict[str, Any]:
    """Build one line: the seed's fields, the fail-closed verdict, and an identity by content and owner."""
    gates = [gate.model_dump(mode="json") for gate in scorecard.gates]
    entry = {
        "timestamp": timestamp.isoformat(),
        "commit_sha": commit_sha,
        "tier": scorecard.tier.value,
        "overall_passed": scorecard.overall_passed,
        "gates": gates,
        "metadata": scorecard.metadata,
        "verdict": scorecard.verdict.value,
        "candidate_digest": scorecard.candidate_digest,
        "owner": owner,
    }
    return {**entry, "id": digest_bytes(canonical_json(entry))}


def append_history(store: Store, uri: str, entry_of: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
    """Append one line to an object by compare-and-set; a line of the same id is there already and stays alone.

    Args:
        store: where the object lies.
        uri: the object.
        entry_of: makes the line from the lines before it; called again when another writer came first.

    Returns:
        The line.

    Raises:
        ConflictError: other writers came first every time.
    """
    for attempt in range(WRITERS):
        try:
            present, etag = store.read_with_etag(uri)
        except NotFoundError:
            present, etag = b"", ""
        entry = entry_of(present)
        line = (json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n").encode()
        if f'"id": "{entry["id"]}"'.encode() in present:
            return entry
        if present and not present.endswith(b"\n"):
            present += b"\n"
        try:
            if etag:
                store.write(uri, present + line, if_match=etag)
            else:
                store.write(uri, line, if_absent=True)
            return entry
        except ConflictError:
            if attempt + 1 == WRITERS:
                raise
    raise AssertionError("unreachable: the last conflict is raised")
