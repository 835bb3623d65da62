"""Duplicates: exact ones by hash, near ones by MinHash with candidates verified, leaks of evaluation suites."""

from sluice_traces.dedup.leaks import LeakIndex
from sluice_traces.dedup.search import Deduplicator, DuplicateKind, NearConfig

__all__ = ["Deduplicator", "DuplicateKind", "LeakIndex", "NearConfig"]
