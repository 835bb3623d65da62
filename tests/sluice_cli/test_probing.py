"""Suites of probes that cannot be read: whose fault it is decides whether the run is tried again."""

import socket
from pathlib import Path

import pytest

from sluice_api.contracts.jobs import FailureClass, ProbePlan
from sluice_artifacts.reporting import WorkerError
from sluice_cli.probing import probe
from sluice_trainer.live import Answer


def failure(uri: str, tmp_path: Path) -> WorkerError:
    def unasked(_: object) -> list[Answer]:
        raise AssertionError("there is nothing to ask")

    with pytest.raises(WorkerError, match=r"^probes\.suite: ") as caught:
        probe(ProbePlan(suite_uri=uri), unasked, 0, f"file://{tmp_path}/reports/")
    return caught.value


def test_a_suite_that_is_not_there_or_malformed_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("tasks: 7\n")
    for uri in (f"file://{tmp_path}/absent.yaml", f"file://{tmp_path}/suite.yaml", "http://somewhere/suite.yaml"):
        assert failure(uri, tmp_path).failure_class == FailureClass.USER_ERROR


def test_a_storage_that_does_not_answer_says_nothing_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        monkeypatch.setenv("AWS_REGION", "local")
        found = failure("s3://bucket/suite.yaml", tmp_path)
    assert found.failure_class == FailureClass.STORAGE
