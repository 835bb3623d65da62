"""Fixtures of the operator's tests."""

from operator_fixtures import api, crds, place, ray_head, role, stage, zygote

__all__ = ["api", "crds", "place", "ray_head", "role", "stage", "zygote"]
