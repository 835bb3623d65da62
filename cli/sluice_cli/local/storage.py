"""The S3 server of a local installation: the examples name a bucket, as they would on a cluster."""

import contextlib
import json
import os
from collections.abc import Mapping

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from sluice_cli.local.layout import Layout
from sluice_devcluster.errors import ComponentError
from sluice_devcluster.files import write_atomic
from sluice_devcluster.reporting import Reporter
from sluice_devcluster.s3 import S3Server


def start_storage(layout: Layout, reporter: Reporter) -> None:
    """Start the server over what an earlier one left, and let this process and what it starts find it.

    Raises:
        ComponentError: it did not come up, or has no such bucket and cannot make it.
    """
    layout.logs.mkdir(parents=True, exist_ok=True)
    keys = json.loads(layout.bucket_keys.read_text(encoding="utf-8")) if layout.bucket_keys.is_file() else None
    server = S3Server(folder=layout.buckets, keys=keys, reporter=reporter)
    if keys is None:
        write_atomic(layout.bucket_keys, json.dumps([server.access_key, server.secret_key]).encode(), mode=0o600)
    server.start(owner=layout.owner, log=layout.logs / "s3.log")
    write_atomic(layout.storage_access, json.dumps(server.env()).encode(), mode=0o600)
    # A token of the user's own cloud session would be sent along with the server's keys, and refused.
    os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update(server.env())
    ensure_bucket(layout, layout.bucket)


def storage_access(layout: Layout) -> Mapping[str, str] | None:
    """Return the variables by which every AWS client finds the server; None where none was started."""
    if not layout.storage_access.is_file():
        return None
    access: Mapping[str, str] = json.loads(layout.storage_access.read_text(encoding="utf-8"))
    return access


def ensure_bucket(layout: Layout, name: str) -> None:
    """Make a bucket where there is none by that name yet.

    Raises:
        ComponentError: the name cannot be a bucket's, or the server does not answer.
    """
    access = storage_access(layout)
    if access is None:
        raise ComponentError(f"cluster {layout.name} has no S3 server")
    try:
        client = boto3.client(
            "s3",
            endpoint_url=access["AWS_ENDPOINT_URL_S3"],
            region_name=access["AWS_REGION"],
            aws_access_key_id=access["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=access["AWS_SECRET_ACCESS_KEY"],
        )
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        raise ComponentError(f"bucket {name} could not be made: {error}") from error
