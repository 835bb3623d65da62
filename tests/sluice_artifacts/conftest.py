"""The two kinds of storage that every store test runs against."""

import secrets

import boto3
import pytest


@pytest.fixture
def s3_environment(s3_server, monkeypatch):
    """Point this process at the S3 server, away from any credentials of the machine."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def bucket(s3_environment):
    """A fresh bucket's name."""
    name = f"test-{secrets.token_hex(8)}"
    endpoint = s3_environment.endpoint_url
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.integration)])
def root(request, tmp_path):
    """An empty prefix: a folder, and a bucket of a real S3 server."""
    if request.param == "file":
        return (tmp_path / "store").as_uri()
    return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
