"""Fixtures of the operator's tests."""

from operator_fixtures import api, crds, jobs_api, place, ray_head, role, site, stage, zygote

__all__ = ["api", "crds", "jobs_api", "place", "ray_head", "role", "site", "stage", "zygote"]
