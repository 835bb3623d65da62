"""The label worker against a real S3 server: same digest as from files, refusals classified."""

import secrets
import shutil
from pathlib import Path

import boto3
import pytest

from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.jobs import FailureClass, Result
from sluice_artifacts import fetch
from sluice_artifacts.reporting import Reporter, run_worker
from sluice_traces.worker import run
from trace_factory import label_job, many, trace, write_trace


@pytest.fixture
def bucket(s3_server, monkeypatch):
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    name = f"traces-{secrets.token_hex(4)}"
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    client.create_bucket(Bucket=name)
    yield name
    client.close()


def send(folder: Path, bucket: str, s3_server) -> None:
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(
                Bucket=bucket, Key=f"traces/{path.relative_to(folder).as_posix()}", Body=path.read_bytes()
            )
    client.close()


def s3_job(bucket, **fields):
    return label_job(
        f"s3://{bucket}/traces/",
        Path("/unused"),
        output_uri=f"s3://{bucket}/attempts/1/",
        dataset_uri=f"s3://{bucket}/datasets/",
        **fields,
    )


def test_s3_and_files_give_the_same_version(tmp_path, bucket, s3_server):
    source = tmp_path / "s"
    many(source, 30)
    write_trace(source, trace("shots", "acme"), screens=True)
    (source / "acme" / "cut.json").write_text("{")
    send(source, bucket, s3_server)
    job = s3_job(bucket)
    output = run(job, Reporter(job))
    local = label_job(source, tmp_path)
    assert output.dataset.digest == run(local, Reporter(local)).dataset.digest
    assert output.bad_examples == ["acme/cut.json: truncated_json: the document ends too early"]
    fetch(output.dataset, tmp_path / "fetched", DatasetManifest)

    many(source, 40)
    shutil.rmtree(source / "acme")
    send(source, bucket, s3_server)
    job = s3_job(bucket, parent=output.dataset.digest)
    assert run(job, Reporter(job)).new_rows == 18


def test_a_bucket_that_does_not_exist_is_the_datas_fault(tmp_path, bucket):
    job = label_job("s3://no-such-bucket-here/traces/", tmp_path)
    assert run_worker(job, run) == 0
    result = Result.model_validate_json((tmp_path / "attempts" / "1" / "result.json").read_bytes())
    assert result.failure.failure_class is FailureClass.DATA
    assert "no-such-bucket-here" in result.failure.message


def test_refused_credentials_are_the_storages_fault(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    job = label_job(f"s3://{bucket}/traces/", tmp_path)
    assert run_worker(job, run) == 0
    result = Result.model_validate_json((tmp_path / "attempts" / "1" / "result.json").read_bytes())
    assert result.failure.failure_class is FailureClass.STORAGE
