"""A local installation has an S3 server of its own, whose buckets outlive its processes."""

import os

import pytest

from sluice_artifacts import open_store
from sluice_cli.local.layout import Layout
from sluice_cli.local.stack import down
from sluice_cli.local.storage import ensure_bucket, start_storage, storage_access
from sluice_cli.main import main
from sluice_devcluster.errors import ComponentError
from sluice_devcluster.reporting import default_reporter

pytestmark = pytest.mark.integration


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """A layout below a home of its own; what the server puts into the environment goes with the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "the user's own")
    for name in ("AWS_REGION", "AWS_EC2_METADATA_DISABLED", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "the user's own")
    layout = Layout.by_name("storage-test")
    yield layout
    down(layout)


def test_buckets_outlive_the_processes_and_the_keys_stay(layout):
    start_storage(layout, default_reporter())
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    open_store(layout.uri).write(f"{layout.uri}a.json", b"kept")
    assert down(layout)
    assert storage_access(layout) is None

    start_storage(layout, default_reporter())
    assert {name: os.environ[name] for name in keys} == keys
    assert open_store(layout.uri).read(f"{layout.uri}a.json") == b"kept"
    assert "AWS_SESSION_TOKEN" not in os.environ


def test_its_variables_are_printed_and_buckets_made(layout, capsys):
    start_storage(layout, default_reporter())
    assert main(["cluster", "storage", "--name", layout.name, "--bucket", "another"]) == 0
    lines = dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())
    assert lines == storage_access(layout)
    store = open_store("s3://another/")
    store.write("s3://another/a", b"bytes")
    assert store.read("s3://another/a") == b"bytes"

    assert main(["cluster", "storage", "--name", layout.name, "--bucket", "no bucket"]) == 1
    assert "bucket no bucket could not be made" in capsys.readouterr().err


def test_where_there_is_no_server_none_is_made_up(layout):
    with pytest.raises(ComponentError, match="no S3 server"):
        ensure_bucket(layout, "sluice")
