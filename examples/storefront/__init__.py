"""Storefront: a small, deterministic, text-only web shop and the agent that works in it.

Everything that Sluice measures on it is decided by a real, tiny model: which action it answers with is up to the
weights, and the shop only says what came of it.
"""
