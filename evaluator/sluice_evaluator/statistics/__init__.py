"""The statistics of Sluice: every function names its formula's source and is checked against an independent one.

- `binomial`: intervals of one proportion (Wilson, Clopper-Pearson) on a regularised incomplete beta of our own;
- `paired`: two models on the same tasks (exact McNemar, interval of the difference, bootstrap, cluster sign flips);
- `multiple`: several hypotheses (Holm) and several looks over time (alpha spending);
- `sequential`: two arms that are looked at whenever somebody likes (e-processes);
- `planning`: how much evidence a question needs, before it is asked.

SciPy is not needed at run time: the one special function used here takes forty lines, SciPy eighty megabytes in every
worker image. The tests hold all of it against SciPy.
"""

from sluice_evaluator.statistics.binomial import (
    Interval,
    beta_quantile,
    binomial_cdf,
    clopper_pearson,
    regularized_incomplete_beta,
    wilson,
)
from sluice_evaluator.statistics.multiple import AlphaSpending, holm
from sluice_evaluator.statistics.paired import (
    Bootstrap,
    cluster_sign_flip,
    mcnemar,
    newcombe_paired,
    paired_bootstrap,
    paired_e_value,
)
from sluice_evaluator.statistics.planning import (
    DISCORDANT_SHARE,
    TwoArmPlan,
    paired_minimum_detectable_effect,
    paired_sample_size,
    sequential_sample_size,
    two_arm_sample_size,
)
from sluice_evaluator.statistics.sequential import (
    Blocks,
    EPath,
    SequentialConfig,
    blocks_of,
    e_path,
    log_harm,
    log_safe,
)

__all__ = [
    "DISCORDANT_SHARE",
    "AlphaSpending",
    "Blocks",
    "Bootstrap",
    "EPath",
    "Interval",
    "SequentialConfig",
    "TwoArmPlan",
    "beta_quantile",
    "binomial_cdf",
    "blocks_of",
    "clopper_pearson",
    "cluster_sign_flip",
    "e_path",
    "holm",
    "log_harm",
    "log_safe",
    "mcnemar",
    "newcombe_paired",
    "paired_bootstrap",
    "paired_e_value",
    "paired_minimum_detectable_effect",
    "paired_sample_size",
    "regularized_incomplete_beta",
    "sequential_sample_size",
    "two_arm_sample_size",
    "wilson",
]
