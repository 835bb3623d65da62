"""Stages of a training run before its first step, by the names that its progress shows. Imports no torch."""

STARTING = "starting"
"""Until the workers report."""
LOADING = "loading"
"""Rows and base are fetched and read."""
REFERENCE = "reference"
"""Steps are rows whose reference values are computed."""
UNSAVED = frozenset({STARTING, LOADING, REFERENCE})
"""Stages in which there is nothing to save."""
