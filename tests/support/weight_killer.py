"""Kills an operator at every change of a weight, once before the API server carries it out and once after."""

import re
import threading

from faultproxy import Write
from operators import Operator


class WeightKiller:
    """The two hooks of a fault proxy's plan; `dead` says that the operator must be started again."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.kills = 0
        self.dead = threading.Event()
        self._seen: set = set()

    def before(self, write: Write) -> int | None:
        """Kill, and refuse the write: it never happened."""
        if self.dead.is_set():
            return 503
        return 503 if self._is_new("before", write) else None

    def after(self, write: Write) -> bool:
        """Kill once the write was carried out, and lose the answer."""
        return self._is_new("after", write)

    def _is_new(self, when: str, write: Write) -> bool:
        signature = self._signature(write)
        if signature is None or (when, *signature) in self._seen:
            return False
        self._seen.add((when, *signature))
        # A write of a process that was killed already may still be on its way when its successor is being started.
        if not self.dead.is_set() and self.operator.signal_kill():
            self.kills += 1
            self.dead.set()
        return True

    @staticmethod
    def _signature(write: Write) -> tuple | None:
        """What tells one weight change from the next; None where the write changes no weight."""
        body = write.body.decode(errors="replace")
        if "/configmaps" in write.path:
            return ("route", *re.findall(r"candidate_pct\D+([\d.]+)", body))
        if "/httproutes" in write.path:
            return ("route", *re.findall(r'"(?:weight|percent|value)": *(\d+)', body))
        if "/shadowrollouts/" in write.path and "/status" in write.path:
            return ("status", *re.findall(r'"desired": *(\d+)', body))
        return None
