"""Sluice on one machine: the cluster, Ray, the operator and the storefront agent, as processes that this user owns."""
