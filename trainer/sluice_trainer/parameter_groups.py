"""Parameters by role: attention, router, norm, experts, mlp, other, and ranges of layers.

Names are those of transformers' models; a role is read off the modules on the way to a parameter.
"""

import re
from collections.abc import Sequence

ATTENTION, ROUTER, NORM, EXPERTS, MLP, OTHER = "attention", "router", "norm", "experts", "mlp", "other"
ROLES = (ATTENTION, ROUTER, NORM, EXPERTS, MLP, OTHER)
"""Every parameter has one of them."""

_ATTENTION = re.compile(r"attn|attention")
_NORM = re.compile(r"(^|_)(layer)?norm\d*$|layernorm$|^ln_")
_ROUTER = re.compile(r"^(gate|router|shared_expert_gate)$")
_EXPERTS = re.compile(r"^(experts?|shared_experts?)$")
_MLP = re.compile(r"^(mlp|feed_forward|ffn|block_sparse_moe)$")
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
_RANGE = re.compile(r"^layers:(\d+)-(\d+)$")


def role_of(name: str) -> str:
    """Role of a parameter, by the modules in its name."""
    parts = name.split(".")
    if any(_NORM.search(part) for part in parts):
        return NORM
    for pattern, role in ((_ROUTER, ROUTER), (_EXPERTS, EXPERTS), (_ATTENTION, ATTENTION), (_MLP, MLP)):
        if any(pattern.search(part) for part in parts):
            return role
    return OTHER


def layer_of(name: str) -> int | None:
    """Number of the layer that a parameter belongs to; None outside of the layers."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def check_group(group: str) -> None:
    """Refuse what is no group.

    Raises:
        ValueError: it is neither a role nor a range of layers whose ends are in order.
    """
    match = _RANGE.match(group)
    if group not in ROLES and (match is None or int(match[1]) > int(match[2])):
        raise ValueError(f"{group!r} is no parameter group: use {', '.join(ROLES)}, or layers:FIRST-LAST")


def in_group(name: str, group: str) -> bool:
    """Whether a parameter belongs to a group."""
    match = _RANGE.match(group)
    if match is None:
        return role_of(name) == group
    layer = layer_of(name)
    return layer is not None and int(match[1]) <= layer <= int(match[2])


def in_any(name: str, groups: Sequence[str]) -> bool:
    """Whether a parameter belongs to one of some groups."""
    return any(in_group(name, group) for group in groups)
