"""Where the two sequential tests of a rollout decide, as the operator reckons it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from sluice_api.v1alpha1 import ShadowRollout


def thresholds(rollout: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the e-values at which harm and non-inferiority are shown at the step of the newest evidence.

    None where the object cannot be read as a ShadowRollout: nothing is guessed then.
    """
    from sluice_operator.decisions.base import Now, Observed, Settings
    from sluice_operator.decisions.common import Facts
    from sluice_operator.decisions.shadowrollout_analysis import harm_alpha

    try:
        obj = ShadowRollout.model_validate(rollout)
    except ValidationError:
        return None
    evidence = obj.status.evidence
    # A rollout that was taken out is at no step any more; its evidence still is.
    step = evidence.step if evidence is not None else max(1, obj.status.step)
    status = obj.status.model_copy(update={"step": step})
    facts = Facts(obj=obj, observed=Observed(settings=Settings()), now=Now(instant=datetime.now(UTC)))
    return 1.0 / harm_alpha(facts, status), 1.0 / obj.spec.analysis.alpha
