"""The S3 server is real, has keys of its own, and is gone afterwards."""

import socket
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from sluice_devcluster import s3
from sluice_devcluster.errors import ComponentError
from sluice_devcluster.ports import free_port, is_free
from sluice_devcluster.processes import find_owned, stop
from sluice_devcluster.s3 import S3Server

pytestmark = pytest.mark.integration


def client(server, **changes):
    keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key} | changes
    config = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=server.endpoint_url, region_name=server.region, config=config, **keys)


def test_objects_are_written_once_when_asked_to(s3_server):
    storage = client(s3_server)
    storage.create_bucket(Bucket="once")
    storage.put_object(Bucket="once", Key="a", Body=b"first", IfNoneMatch="*")

    with pytest.raises(ClientError, match="PreconditionFailed"):
        storage.put_object(Bucket="once", Key="a", Body=b"second", IfNoneMatch="*")
    assert storage.get_object(Bucket="once", Key="a")["Body"].read() == b"first"


def test_another_secret_is_refused(s3_server):
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(s3_server, aws_secret_access_key="guessed").list_buckets()


def test_the_environment_is_all_that_a_client_needs(s3_server, monkeypatch):
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)

    assert "Buckets" in boto3.client("s3").list_buckets()


def test_two_servers_share_nothing_and_leave_nothing(s3_server):
    with S3Server() as other:
        port = int(other.endpoint_url.rpartition(":")[2])
        scratch = Path(other._scratch)
        client(other).create_bucket(Bucket="elsewhere")
        assert [bucket["Name"] for bucket in client(other).list_buckets()["Buckets"]] == ["elsewhere"]
        assert other.secret_key != s3_server.secret_key
        with pytest.raises(ClientError, match="No user exists"):
            client(s3_server, aws_access_key_id=other.access_key).list_buckets()

    assert is_free(port)
    assert not scratch.exists()
    with pytest.raises(ComponentError, match="not running"):
        _ = other.endpoint_url


def test_a_given_folder_keeps_its_data(tmp_path):
    with S3Server(folder=tmp_path / "data") as server:
        client(server).create_bucket(Bucket="kept")
        client(server).put_object(Bucket="kept", Key="a/b", Body=b"bytes")
    with S3Server(folder=tmp_path / "data") as server:
        assert client(server).get_object(Bucket="kept", Key="a/b")["Body"].read() == b"bytes"


def test_a_server_that_stays_is_found_by_its_owner_and_another_one_serves_its_data_by_its_keys(tmp_path):
    owner, log = str(tmp_path), tmp_path / "s3.log"
    first = S3Server(folder=tmp_path / "data")
    first.start(owner=owner, log=log)
    try:
        client(first).create_bucket(Bucket="kept")
        client(first).put_object(Bucket="kept", Key="a", Body=b"bytes")
        assert len(find_owned(owner)) == 1
    finally:
        stop(find_owned(owner))
    second = S3Server(folder=tmp_path / "data", keys=(first.access_key, first.secret_key))
    second.start(owner=owner, log=log)
    try:
        with pytest.raises(ClientError, match="BucketAlreadyOwnedByYou"):
            client(second).create_bucket(Bucket="kept")
        assert client(second).get_object(Bucket="kept", Key="a")["Body"].read() == b"bytes"
    finally:
        stop(find_owned(owner))


def test_a_server_that_stays_wants_a_folder_that_stays(tmp_path):
    with pytest.raises(ValueError, match="needs a folder that stays"):
        S3Server().start(owner=str(tmp_path), log=tmp_path / "s3.log")


def test_a_port_that_is_taken_at_the_last_moment_is_replaced(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = [listener.getsockname()[1]]
        monkeypatch.setattr(s3, "free_port", lambda: taken.pop() if taken else free_port())
        with S3Server() as server:
            assert not taken
            assert "Buckets" in client(server).list_buckets()


def test_a_server_that_cannot_start_says_why(tmp_path):
    program = tmp_path / "versitygw"
    program.write_text("#!/bin/sh\necho no extended attributes here\nexit 1\n")
    program.chmod(0o755)

    with (
        pytest.raises(ComponentError, match=r"(?s)ended while it started.*no extended attributes here"),
        S3Server(program=program),
    ):
        pass
