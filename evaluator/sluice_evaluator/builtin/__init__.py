"""Suites that come with Sluice, made from code, each task with its reference answer.

Before a suite runs, every reference answer is judged by the suite's own criteria: a suite whose reference fails does
not run, since its scores would mean nothing.
"""

from sluice_api.contracts.suites import BUILTIN_PREFIX
from sluice_evaluator.builtin.catalog import SUITES, builtin_suite, load, preflight, texts
from sluice_evaluator.reference import BuiltinSuite, BuiltinTask

__all__ = ["BUILTIN_PREFIX", "SUITES", "BuiltinSuite", "BuiltinTask", "builtin_suite", "load", "preflight", "texts"]
