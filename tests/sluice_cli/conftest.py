"""Fixtures of the commands' tests on a real API server."""

from operator_fixtures import crds, jobs_api, place, site, zygote

__all__ = ["crds", "jobs_api", "place", "site", "zygote"]
