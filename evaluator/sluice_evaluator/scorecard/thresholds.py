"""What each tier asks of each gate."""

import math
from collections.abc import Mapping

from sluice_api.contracts.scorecard import Direction, GateName, Tier

Thresholds = Mapping[str, Mapping[str, float]]
"""Gate name to tier name to threshold; a tier that a gate lacks has none."""


def _tiers(base: float, first_sft: float, future: float) -> dict[str, float]:
    return {Tier.BASE.value: base, Tier.FIRST_SFT.value: first_sft, Tier.FUTURE.value: future}


DEFAULT_THRESHOLDS: dict[str, dict[str, float]] = {
    GateName.TASK_PASS_RATE.value: _tiers(0.40, 0.55, 0.75),
    GateName.PARSER_VALIDITY.value: _tiers(0.95, 0.98, 0.99),
    GateName.GROUNDING_ACCURACY.value: _tiers(0.55, 0.70, 0.85),
    GateName.FORBIDDEN_REGION_AVOIDANCE.value: _tiers(0.90, 0.95, 0.98),
    GateName.LOOP_RATE_MAX.value: _tiers(0.10, 0.05, 0.02),
    GateName.GALLERY_RECOVERY_RATE.value: _tiers(0.70, 0.85, 0.95),
    GateName.ESCALATION_RATE_MAX.value: _tiers(0.10, 0.05, 0.02),
    GateName.DONE_COMPLETENESS.value: _tiers(0.70, 0.85, 0.95),
    GateName.COST_PER_SUCCESS_USD_MAX.value: _tiers(0.50, 0.30, 0.15),
}
"""The seed's 27 thresholds."""

DIRECTIONS: dict[GateName, Direction] = {
    name: Direction.MAX if name.endswith("_max") else Direction.MIN for name in GateName
}
"""Which side of its threshold each gate passes on; the names say it."""


def check_gate_name(name: str, where: str) -> GateName:
    """Give the gate of a name.

    Raises:
        ValueError: there is no such gate: a mistyped name must not silently gate nothing.
    """
    try:
        return GateName(name)
    except ValueError:
        raise ValueError(f"{where}: unknown gate {name!r}; known are {', '.join(GateName)}") from None


def is_possible(name: GateName, value: float) -> bool:
    """Tell whether the gate can have the value: rates lie between 0 and 1, a cost is not negative."""
    most = math.inf if name == GateName.COST_PER_SUCCESS_USD_MAX else 1.0
    return math.isfinite(value) and 0.0 <= value <= most


def check_value(name: GateName, value: float, where: str) -> float:
    """Give the value back if the gate can have it: rates lie between 0 and 1, a cost is not negative.

    Raises:
        ValueError: it cannot.
    """
    if not is_possible(name, value):
        raise ValueError(f"{where}: {name} cannot be {value}")
    return float(value)


def with_overrides(tier: Tier, overrides: Mapping[str, float]) -> Thresholds:
    """Give the default thresholds with some of one tier replaced.

    Raises:
        ValueError: a gate is unknown, or cannot have the value.
    """
    merged = {gate: dict(tiers) for gate, tiers in DEFAULT_THRESHOLDS.items()}
    for name, value in overrides.items():
        gate = check_gate_name(name, "thresholds")
        merged[gate.value][tier.value] = check_value(gate, value, "thresholds")
    return merged
