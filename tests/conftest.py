"""Fixtures and markers that every test folder has."""

import pytest

from clusters import FIXTURES, cluster, kubectl, namespace, s3_server

__all__ = ["cluster", "kubectl", "namespace", "s3_server"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that needs a real server, so that ``-m 'not integration'`` leaves the quick ones."""
    for item in items:
        if FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
