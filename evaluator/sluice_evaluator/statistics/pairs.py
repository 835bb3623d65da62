"""Two arms on the same requests, looked at whenever somebody likes: e-processes for paired differences.

A pair's difference is 1 where the candidate alone has the event, -1 where the stable arm alone has it, 0 otherwise.
While its mean, given the past, is at most `m`, the capital of a gambler who bets a fixed share `b` of it on more, the
product of `1 + b (d - m)`, is a non-negative supermartingale, and exceeds `1 / alpha` at any time with probability at
most `alpha` (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", J. R. Stat.
Soc. B 86). A mean of several gamblers is again one. What both arms share, a hard request, cancels out.
"""

import numpy as np

from sluice_evaluator.statistics.sequential import EPath, Floats

BETS = (0.05, 0.15, 0.4, 0.8)
"""Shares that the gamblers bet, of the largest that leaves them solvent; all weigh the same."""


def _capital(gains: Floats) -> Floats:
    """Mean capital of the gamblers after each pair, as logarithms; `gains` has shape `(..., pairs)`, at least -1."""
    bets = np.array(BETS)
    paths = np.cumsum(np.log1p(gains[..., None] * bets), axis=-2)
    peak = paths.max(axis=-1, keepdims=True)
    mean: Floats = peak + np.log(np.exp(paths - peak).mean(axis=-1, keepdims=True))
    return mean[..., 0]


def paired_e_path(differences: Floats, margin: float) -> EPath:
    """Run both tests over pairs, shape `(..., pairs)`: against a mean of at most 0, and of at least `margin`.

    Raises:
        ValueError: a difference is not -1, 0 or 1, or the margin does not lie strictly between 0 and 1.
    """
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin must lie strictly between 0 and 1, got {margin}")
    if not np.isin(differences, (-1.0, 0.0, 1.0)).all():
        raise ValueError("a pair's difference is -1, 0 or 1")
    return EPath(
        log_harm=_capital(np.asarray(differences, dtype=float)),
        log_safe=_capital((margin - differences) / (1.0 - margin)),
    )
