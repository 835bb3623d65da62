"""Who waits for whom: a reverse lookup from referenced objects to those that named them when last observed.

No labels are needed on the user's objects, and nothing is persisted: after a restart every object is observed once, and
that fills the index again.
"""

from collections import defaultdict
from collections.abc import Iterable

from sluice_operator.workqueue import Key

Target = tuple[str, str, str]
"""Kind, namespace and name of a referenced object; an empty name stands for any of that kind and namespace."""


class ReferenceIndex:
    """Referenced objects to the keys that depend on them, and live UIDs to keys."""

    def __init__(self) -> None:
        """Start empty."""
        self._dependents: defaultdict[Target, set[Key]] = defaultdict(set)
        self._targets: dict[Key, frozenset[Target]] = {}
        self._keys: dict[str, Key] = {}

    def record(self, key: Key, targets: Iterable[Target]) -> None:
        """Replace what `key` depends on."""
        new = frozenset(targets)
        for target in self._targets.get(key, frozenset()) - new:
            self._discard(target, key)
        for target in new:
            self._dependents[target].add(key)
        self._targets[key] = new
        self._keys[key.uid] = key

    def forget(self, key: Key) -> None:
        """Remove an object that is gone; what waits for it keeps waiting."""
        for target in self._targets.pop(key, frozenset()):
            self._discard(target, key)
        self._keys.pop(key.uid, None)

    def dependents(self, kind: str, namespace: str, name: str) -> set[Key]:
        """Return the keys to wake when this object changes."""
        exact = self._dependents.get((kind, namespace, name), set())
        return exact | self._dependents.get((kind, namespace, ""), set())

    def by_uid(self, uid: str) -> Key | None:
        """Return the key of a live object, for events of its children."""
        return self._keys.get(uid)

    def known(self) -> set[Key]:
        """Return every object observed so far."""
        return set(self._targets)

    def _discard(self, target: Target, key: Key) -> None:
        keys = self._dependents.get(target)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._dependents[target]
