"""Reference log-probabilities of a run's pairs, kept beside its checkpoints: an attempt computes them only once.

One file, named by the digest of what the values depend on: a line of JSON that says so again, and how many pairs and
what digest follow, then the values (float32, little-endian, two a pair). A file that is cut, damaged or of something
else counts as absent, and so does one that cannot be asked for: the values are then computed again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from sluice_artifacts import ArtifactError, NotFoundError, Store, canonical_json, digest_bytes, join, open_store, to_hex
from sluice_trainer.dpo import Pair
from sluice_trainer.group import Group

FORMAT = 2
"""Version of the file and of how the values are computed; a change makes earlier files unknown."""
_log = logging.getLogger(__name__)


def reference_key(pairs: Sequence[Pair], *, base: str, parent: str, row_tokens: int, device: str) -> str:
    """Digest of what reference values depend on.

    Args:
        pairs: the pairs, in order.
        base: digest of the base model.
        parent: digest of the adapter that training starts from; empty where it is fresh.
        row_tokens: tokens of the longest row, which decides how pairs are packed and so how sums are rounded.
        device: kind of device, which decides the type of the weights.
    """
    content = hashlib.sha256()
    for pair in pairs:
        content.update(pair.fingerprint())
    document = {
        "format": FORMAT,
        "pairs": content.hexdigest(),
        "base": base,
        "parent": parent,
        "row_tokens": row_tokens,
        "device": device,
    }
    return digest_bytes(canonical_json(document))


class ReferenceStore:
    """The reference values of one run."""

    def __init__(self, uri: str, key: str, count: int, *, store: Store | None = None) -> None:
        """Look below `uri` for the values of `count` pairs under `key`."""
        self._uri = join(uri, f"reference-{to_hex(key)[:32]}.bin")
        self._key = key
        self._count = count
        self._store = store or open_store(uri)

    def read(self) -> torch.Tensor | None:
        """The values, fp32, on the CPU, shape `[pairs, 2]`; None where there are none that can be trusted."""
        try:
            header, _, body = self._store.read(self._uri).partition(b"\n")
            said = json.loads(header)
            expected = {"format": FORMAT, "key": self._key, "pairs": self._count}
            if said != {**expected, "sha256": hashlib.sha256(body).hexdigest()} or len(body) != 8 * self._count:
                raise ValueError("it is not what its first line says")
        except NotFoundError:
            return None
        except (ArtifactError, ValueError) as error:
            _log.warning("reference values are computed again: %s: %s", self._uri, error)
            return None
        return torch.from_numpy(np.frombuffer(body, dtype="<f4").astype(np.float32).reshape(-1, 2))

    def write(self, values: torch.Tensor) -> None:
        """Keep the values; a storage that does not take them costs the next attempt the computation, nothing else."""
        body = values.numpy().astype("<f4").tobytes()
        header = {"format": FORMAT, "key": self._key, "pairs": self._count, "sha256": hashlib.sha256(body).hexdigest()}
        try:
            self._store.write(self._uri, json.dumps(header).encode() + b"\n" + body)
        except ArtifactError as error:
            _log.warning("reference values are not kept: %s", error)


def reference_of(
    kept: ReferenceStore, count: int, group: Group, device: torch.device, compute: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The values that process 0 has kept, on every process, or those that all compute together.

    Args:
        kept: where they may lie.
        count: pairs.
        group: the processes.
        device: where they exchange tensors.
        compute: computes the values, shape `[count, 2]`, the same on every process.
    """
    found = kept.read() if group.rank == 0 else None
    there = torch.tensor(float(found is not None), device=device)
    group.broadcast(there)
    if there.item():
        values = torch.zeros(count, 2, device=device) if found is None else found.to(device)
        group.broadcast(values)
        return values.cpu()
    values = compute()
    if group.rank == 0:
        kept.write(values)
    return values
