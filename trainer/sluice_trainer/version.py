"""The version that manifests name."""

from importlib.metadata import PackageNotFoundError, version


def code_version() -> str:
    """Version of the installed package; empty when it is not installed."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return ""
