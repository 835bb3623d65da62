"""The critic: which generated answers are good enough to learn from, by seven labels that can each be unknown."""

from sluice_traces.critic.candidate import Candidate, CandidateError, Kind, Repair, normalise, scrubbed
from sluice_traces.critic.judge import Critic, CriticLabels, Judgement, RejectReason
from sluice_traces.critic.runner import HarnessRunner, IsolatedRunner

__all__ = [
    "Candidate",
    "CandidateError",
    "Critic",
    "CriticLabels",
    "HarnessRunner",
    "IsolatedRunner",
    "Judgement",
    "Kind",
    "RejectReason",
    "Repair",
    "normalise",
    "scrubbed",
]
