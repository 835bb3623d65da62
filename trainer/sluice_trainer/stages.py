"""Stages of a training run before its first step, by the names that its progress shows. Imports no torch."""

CHECKING = "checking"
"""Every row is looked at before any worker is asked for; steps are rows."""
STARTING = "starting"
"""Until the workers report."""
LOADING = "loading"
"""Rows and base are fetched and read; steps are rows or screenshots read, or steps planned, one after the other."""
REFERENCE = "reference"
"""Steps are rows whose reference values are computed."""
UNSAVED = frozenset({CHECKING, STARTING, LOADING, REFERENCE})
"""Stages in which there is nothing to save."""
