"""Private text is found and replaced before a row leaves the machine; what cannot be judged is kept back."""

from sluice_traces.privacy.policy import DetectorName, OnFinding, PrivacyConfig
from sluice_traces.privacy.redact import Redactor, RunRedactor

__all__ = ["DetectorName", "OnFinding", "PrivacyConfig", "Redactor", "RunRedactor"]
