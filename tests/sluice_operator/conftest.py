"""Fixtures of the operator's tests."""

from operator_fixtures import api, crds, role

__all__ = ["api", "crds", "role"]
