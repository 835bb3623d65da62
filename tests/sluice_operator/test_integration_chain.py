"""The whole chain, from dataset to promotion: uninterrupted, and with the operator killed after every write.

A proxy before the real API server sees every write and kills the operator, before or after
the server has carried it out. Both chains must end alike, and no attempt may ever have had two jobs.
"""

import json
import re
import threading
from collections import Counter

import pytest

from faultproxy import FaultProxy, Write
from manifests_for_tests import STABLE_DIGEST, chain
from operators import proxied, until
from sluice_artifacts import read_channel
from sluice_devcluster.kubeconfig import read_ca, read_cluster

KINDS = {
    "tracedataset": ("data", "Ready"),
    "finetunerun": ("run", "Succeeded"),
    "evalrun": ("eval", "Succeeded"),
    "promotionscorecard": ("card", "Passed"),
    "shadowrollout": ("rollout", "Completed"),
}
STAMPS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|\d\d:\d\d:\d\d")
UNSTABLE = {"lastTransitionTime", "resourceVersion"}


def outcome(place) -> dict:
    """Return what the chain came to, without what differs from chain to chain: instants, UIDs, places, attempts."""
    result = {}
    for kind, (name, _) in KINDS.items():
        status = place.status(kind, name)
        conditions = sorted((c["type"], c["status"], c["reason"]) for c in status["conditions"])
        result[kind] = {"phase": status["phase"], "reason": status["reason"], "conditions": conditions}
        for field in ("latest", "adapter", "summary", "comparison", "verdict", "weight", "step", "lastGood", "round"):
            if field in status:
                text = json.dumps(status[field], sort_keys=True).replace(str(place.root), "ROOT")
                # A dataset's rows name their source: the digests differ with the root, not with the crashes.
                result[kind][field] = re.sub(r"[0-9a-f]{64}", "DIGEST", STAMPS.sub("T", text))
    return result


def finished(place) -> bool:
    return place.phase("shadowrollout", "rollout") == "Completed"


def check_end(place) -> None:
    """Check what must hold at the end of every chain."""
    for kind, (name, phase) in KINDS.items():
        assert place.phase(kind, name) == phase, (kind, place.status(kind, name))
    adapter = place.status("finetunerun", "run")["adapter"]["digest"]
    channel, _ = read_channel(place.uri, "stable")
    assert (channel.digest, channel.last_good) == (adapter, STABLE_DIGEST)
    route = json.loads(place.get("configmap", "rollout-router")["data"]["rollout.json"])
    assert (route["stable"]["digest"], route["candidate_pct"], route["candidate"]) == (adapter, 0.0, None)
    doubled = [job for job, starts in Counter(place.jobs()).items() if starts > 1]
    assert not doubled


@pytest.fixture(scope="module")
def uninterrupted(site):
    """The outcome of a chain that nobody disturbed."""
    with site.operator() as operator:
        site.apply(*chain(site.uri))
        until(lambda: finished(site), timeout_s=400, what="the chain ends")
        check_end(site)
        assert operator.starts == 1
    return outcome(site)


def test_the_chain_promotes_the_candidate(uninterrupted, site):
    assert json.loads(uninterrupted["shadowrollout"]["weight"])["actual"] == 0
    scorecards = site.status("shadowrollout", "rollout")["scorecards"]
    assert [(card["step"], card["verdict"]) for card in scorecards] == [(1, "Pass"), (2, "Pass")]


class Killer:
    """Kills the operator at every write but the Lease's and news, once before it is carried out and once after."""

    def __init__(self, operator):
        self.operator = operator
        self.kills = 0
        self.dead = threading.Event()
        self._seen: set = set()

    def before(self, write: Write) -> int | None:
        """Kill at the first try of each kind of write: what came before it, a job's submission say, has happened."""
        if write.lease or write.event:
            return None
        if self.dead.is_set():
            return 503
        signature = (write.method, write.path.split("?")[0], _gist(write.body))
        if signature in self._seen:
            return None
        self._seen.add(signature)
        self._kill()
        return 503

    def after(self, write: Write) -> bool:
        """Kill after the write; its answer is lost."""
        if write.lease or write.event:
            return False
        self._kill()
        return True

    def _kill(self) -> None:
        # A write of a process that was killed already may still be on its way when its successor is being started.
        if not self.dead.is_set() and self.operator.signal_kill():
            self.kills += 1
            self.dead.set()


def _gist(body: bytes) -> str:
    """Return what tells one write of an object from the next: the phase and reason of its status, or its weights."""
    return " ".join(re.findall(r'"(?:phase|reason|step|candidate_pct)\\*": *[^,}]+', body.decode()))


def test_killing_the_operator_at_every_write_changes_nothing(place, cluster, uninterrupted, tmp_path):
    _, entry = read_cluster(cluster.kubeconfig)
    with FaultProxy(entry["server"], read_ca(cluster.kubeconfig, entry)) as proxy:
        kubeconfig = proxied(place.kubeconfig, proxy.url, tmp_path / "proxied.kubeconfig")
        operator = place.operator("victim", kubeconfig=kubeconfig)
        killer = Killer(operator)
        proxy.plan.before, proxy.plan.after = killer.before, killer.after
        place.apply(*chain(place.uri))
        operator.start()

        def chain_ended() -> bool:
            if killer.dead.is_set():
                operator.kill()
                killer.dead.clear()
                operator.start(wait=False)
            assert operator.running() or killer.dead.is_set(), operator.tail()
            return finished(place)

        until(chain_ended, timeout_s=900, what="the chain ends in spite of the kills", every_s=0.05)
        operator.kill()
    writes = [write for write in proxy.plan.log if not write.lease and not write.event]
    # Writes that were in flight together die in one kill.
    assert operator.starts >= killer.kills > 0.8 * len(writes) > 30
    check_end(place)
    assert outcome(place) == uninterrupted
