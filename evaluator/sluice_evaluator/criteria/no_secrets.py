"""`no_secrets`: the answer holds nothing that looks like a credential, and no boilerplate in place of an answer."""

import re

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.registry import Failed, criterion

PATTERNS = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    "a cloud access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a source host's token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bglpat-[A-Za-z0-9_-]{20,}\b"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}\b"),
    "a web token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "boilerplate": re.compile(r"\bas an? (?:AI|artificial intelligence)(?: language)? model\b", re.IGNORECASE),
}
"""What is looked for, by what it is called."""


@criterion("no_secrets", needs_value=False)
def no_secrets(outcome: Outcome, value: str) -> bool:
    """Hold when none of the patterns is found."""
    found = [name for name, pattern in PATTERNS.items() if pattern.search(outcome.output)]
    if found:
        raise Failed(f"holds {', '.join(found)}")
    return True
