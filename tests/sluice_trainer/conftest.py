"""Fixtures of the trainer's tests that run through the operator."""

from operator_fixtures import crds, zygote

__all__ = ["crds", "zygote"]
