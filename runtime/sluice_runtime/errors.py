"""Errors of the runtime."""


class SluiceRuntimeError(Exception):
    """Base of the runtime's errors; messages say what to do."""


class ModelLoadError(SluiceRuntimeError):
    """The base model cannot be loaded."""


class AdapterError(SluiceRuntimeError):
    """An adapter is unknown, does not verify, or does not fit the base model."""


class ResolveError(SluiceRuntimeError):
    """A channel names nothing that can be served."""
