"""Names and places of everything that the operator makes: pure functions of the owner, so that a crash repeats them."""

import hashlib
import re
from collections.abc import Sequence

JOB_NAME_LIMIT = 47
"""Longest name that KubeRay accepts for a RayJob."""
OBJECT_NAME_LIMIT = 63
"""Longest name that is also a valid label value and DNS label."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
"""Standard label; the value is `MANAGER`."""
LABEL_OWNER_KIND = "sluice.dev/owner-kind"
"""Kind on whose behalf an object was made."""
LABEL_OWNER_NAME = "sluice.dev/owner-name"
"""Name of that object, cut to a label's length."""
LABEL_OWNER_UID = "sluice.dev/owner-uid"
"""UID of that object: what counts, since names are reused."""
LABEL_ATTEMPT = "sluice.dev/attempt"
"""Attempt of the owner that a job runs."""
LABEL_STEP = "sluice.dev/step"
"""Step of a rollout that a scorecard judges."""
LABEL_ROUND = "sluice.dev/round"
"""Round of a rollout that a scorecard belongs to."""
LABEL_DATASET_DIGEST = "sluice.dev/dataset-digest"
"""First 12 hexadecimal digits of the dataset version that a lineage trains on."""
MANAGER = "sluice"
"""Value of `app.kubernetes.io/managed-by`."""

_STEMS = {
    "TraceDataset": "tds",
    "FineTuneRun": "ftr",
    "EvalRun": "evr",
    "PromotionScorecard": "psc",
    "ShadowRollout": "shr",
}
_ILLEGAL = re.compile(r"[^a-z0-9-]+")


def short_hash(*parts: str, length: int = 8) -> str:
    """Return `length` hexadecimal digits of the SHA-256 over the parts, each terminated."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:length]


def dns_label(text: str) -> str:
    """Return `text` as a DNS-1123 label: lower case, other characters as hyphens, none at the ends."""
    return _ILLEGAL.sub("-", text.lower()).strip("-") or "x"


def bounded(prefix: str, suffix: str, limit: int = OBJECT_NAME_LIMIT) -> str:
    """Return `<prefix>-<suffix>` in at most `limit` characters.

    A prefix that must be cut gets six digits of its hash, so that two long prefixes stay apart.

    Raises:
        ValueError: `suffix` leaves no room for a prefix.
    """
    head, tail = dns_label(prefix), dns_label(suffix)
    room = limit - len(tail) - 1
    if room < 8:
        raise ValueError(f"name suffix {tail!r} leaves {room} of {limit} characters, a prefix needs 8")
    if len(head) > room:
        head = head[: room - 7].strip("-") + "-" + short_hash(head, length=6)
    return f"{head}-{tail}"


def job_name(kind: str, name: str, uid: str, attempt: int) -> str:
    """Return the name of an attempt's job: at most 47 characters, DNS-1123.

    The UID's hash keeps a recreated object apart from its predecessor; the attempt keeps retries apart.
    """
    stem = _STEMS.get(kind, dns_label(kind)[:3])
    tail = f"{short_hash(kind, uid)}-{attempt}"
    room = JOB_NAME_LIMIT - len(stem) - len(tail) - 2
    return f"{stem}-{dns_label(name)[:room].strip('-') or 'x'}-{tail}"


def step_scorecard_name(rollout: str, uid: str, round_number: int, step: int, attempt: int) -> str:
    """Return the name of a rollout's step scorecard: one for each analysis that it judges."""
    return bounded(rollout, f"{short_hash(uid, length=6)}-r{round_number}-s{step}-a{attempt}")


def lineage_name(dataset: str, digest: str) -> str:
    """Return the name that every child of a dataset version's lineage carries."""
    return bounded(dataset, digest_hex(digest)[:10])


def router_name(rollout: str, config_map: str | None = None) -> str:
    """Return the name of a rollout's ConfigMap."""
    return config_map or bounded(rollout, "router")


def route_name(hostnames: Sequence[str], parents: Sequence[tuple[str, str]]) -> str:
    """Return the name of the HTTPRoute of a target: the same for every rollout of these hosts on these gateways.

    `parents` are gateways with their listener, empty for all listeners.
    """
    hosts = sorted(hostnames)
    target = short_hash(*hosts, "", *(part for parent in sorted(parents) for part in parent))
    return bounded(hosts[0] if hosts else "any-host", f"sluice-{target}")


def digest_hex(digest: str) -> str:
    """Return the hexadecimal digits of a digest."""
    return digest.removeprefix("sha256:")


def label_value(text: str) -> str:
    """Return `text` as a label value: at most 63 characters, cut ones marked by a hash."""
    if len(text) <= OBJECT_NAME_LIMIT:
        return text
    return text[:54].rstrip("-_.") + "-" + short_hash(text)


def owner_labels(kind: str, name: str, uid: str) -> dict[str, str]:
    """Return the labels of everything made on behalf of an object. User labels are never copied: GitOps tools prune
    by them."""
    return {
        LABEL_MANAGED_BY: MANAGER,
        LABEL_OWNER_KIND: kind,
        LABEL_OWNER_NAME: label_value(name),
        LABEL_OWNER_UID: uid,
    }


def place(root: str, *parts: str) -> str:
    """Return the prefix `<root>/<parts…>/`, with single slashes and one at the end."""
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts)]) + "/"


def attempt_uri(output: str, namespace: str, uid: str, attempt: int) -> str:
    """Return the prefix of an attempt's progress and result."""
    return place(output, "runs", namespace, uid, "attempts", str(attempt))


def checkpoint_uri(output: str, namespace: str, uid: str) -> str:
    """Return the prefix of a run's checkpoints, shared by its attempts."""
    return place(output, "runs", namespace, uid, "checkpoints")


def cache_uri(output: str, namespace: str, uid: str) -> str:
    """Return the prefix of what a run's attempts hand on to each other."""
    return place(output, "runs", namespace, uid, "cache")


def adapter_uri(output: str) -> str:
    """Return the prefix below which adapters are published."""
    return place(output, "adapters")


def scorecard_uri(output: str, namespace: str, candidate_digest: str) -> str:
    """Return the prefix of a candidate's scorecards."""
    return place(output, "scorecards", f"{namespace}-{digest_hex(candidate_digest)[:12]}")


def history_uri(output: str, namespace: str) -> str:
    """Return the history of all scorecards of a namespace below one output: a lineage, with one error budget."""
    return place(output, "scorecards") + f"{namespace}-SCORECARD_HISTORY.jsonl"


def version_uri(output: str, digest: str) -> str:
    """Return the prefix of a published artifact: `<output>/<sha256>/`."""
    return place(output, digest_hex(digest))
