"""A TraceDataset on a real API server and a real S3 server: new traces become versions, and nothing private tells."""

import json
import secrets
from pathlib import Path

import boto3
import pytest

from manifests_for_tests import dataset
from operators import until
from private_corpus import private_samples
from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import DatasetManifest
from sluice_artifacts import fetch, join, open_store, read_manifest
from sluice_traces.privacy import DetectorName
from trace_factory import step, trace, write_trace
from versions import part_rows, plain_text, runs

EVERY_FEW_SECONDS = "* * * * * */4"
BADGE = "badge B-4711"
CORPUS = list(private_samples(seed=21, each=2))
"""Made-up private texts of every kind that the detectors know."""


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    name = f"dataset-{secrets.token_hex(4)}"
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    client.create_bucket(Bucket=name)
    client.close()
    return name


def arrive(bucket: str, folder: Path, first: int, count: int) -> None:
    """Traces of that many runs arrive, each with private text of the corpus in every field; one file is cut."""
    for number in range(first, first + count):
        one, two = (CORPUS[(2 * number + offset) % len(CORPUS)].text for offset in (0, 1))
        steps = [
            step(0, intent=f"thing {number}: {one}", reasoning=two, envelope={"prompt": one}),
            step(1, intent=f"thing {number} again, {BADGE}", data=one, predicted_outcome=f"Shows {two}."),
        ]
        started = f"2026-11-01T00:{number:02d}:00Z"
        document = trace(f"run-{number:03d}", f"tenant-{number % 2}", steps, started_at=started, session_name=one)
        write_trace(folder, document, screens=number == first)
    (folder / "tenant-0" / f"cut-{first}.json").write_text("{")
    store = open_store(f"s3://{bucket}/")
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        uri = f"s3://{bucket}/traces/{path.relative_to(folder).as_posix()}"
        if not store.exists(uri):
            store.write(uri, path.read_bytes())


def ref(version: dict) -> ArtifactRef:
    return ArtifactRef(uri=version["uri"], digest=version["digest"])


def test_new_traces_become_versions_on_schedule(place, bucket, s3_server, jobs_api, tmp_path):
    arrive(bucket, tmp_path / "traces", 0, 12)
    root = f"s3://{bucket}/"
    place.write({"cpu": {**place.profile(**s3_server.env()), "entrypoint": "sluice"}})
    privacy = {"patterns": [{"name": "badge", "pattern": r"B-\d{4}"}]}
    lineage = {"fineTuneRun": {"baseModel": {"uri": f"{root}base/"}, "output": root, "suspend": True}}
    manifest = dataset(
        root, schedule=EVERY_FEW_SECONDS, privacy=privacy, onNewVersion=lineage, split={"holdout": 0.2, "by": "time"}
    )
    with place.operator(env=s3_server.env()) as operator:
        place.apply(manifest)
        first = until(lambda: place.status("tracedataset", "data").get("latest"), what="the first version")
        assert (first["traces"], first["badFiles"], first["badReasons"]) == (12, 1, {"truncated_json": 1})
        assert first["labels"]["positive"] == first["rows"] + first["holdoutRows"] == 24
        assert first["reasons"] == {"gate_verify_pass": 12, "success_with_observed_delta": 12}
        assert set(first["redactions"]) == {"badge", *(name.value for name in DetectorName)}
        assert first["redactions"]["badge"] == 12
        assert sum(first["tenants"].values()) == first["rows"] == first["newRows"]
        assert first["screens"] == 1

        arrive(bucket, tmp_path / "traces", 12, 8)

        def versions() -> list[dict]:
            return place.status("tracedataset", "data").get("versions", [])

        until(lambda: len(versions()) >= 2 and versions()[-1]["traces"] == 20, what="a version with all traces")
        latest = place.status("tracedataset", "data")["latest"]
        assert latest["badReasons"] == {"truncated_json": 2}
        total = place.status("tracedataset", "data")["attemptsTotal"]
        known = [version["digest"] for version in versions()]
        until(lambda: place.status("tracedataset", "data")["attemptsTotal"] >= total + 2, what="further builds")
        assert [version["digest"] for version in versions()] == known

        def trained_on() -> set[str]:
            children = place.admin.get(place.namespace, "finetunerun")["items"]
            return {child["spec"]["datasetRef"]["digest"] for child in children}

        until(lambda: trained_on() == {version["digest"] for version in versions()}, what="one run for each version")
        metrics = operator.get("/metrics")[1]
    check_lineage(first, latest)
    check_silence(place, bucket, jobs_api, metrics, tmp_path)


def check_lineage(first: dict, latest: dict) -> None:
    """What was held out stays held out, and what was trained on is never held out."""
    parts = {(run["tenant_id"], run["run_id"]): run["part"] for run in runs(ref(first))}
    later = {(run["tenant_id"], run["run_id"]): run["part"] for run in runs(ref(latest))}
    assert parts.items() <= later.items()
    held = {row["metadata"]["run_id"] for row in part_rows(ref(first), "holdout")}
    assert held and held.isdisjoint(row["metadata"]["run_id"] for row in part_rows(ref(latest)))
    assert read_manifest(ref(latest), DatasetManifest).traces == 20


def check_silence(place, bucket: str, jobs_api, metrics: str, tmp_path: Path) -> None:
    """No private text is in any object, event, figure, log or published byte."""
    said = [metrics, *(path.read_text(errors="replace") for path in place.logs.glob("*.log"))]
    said += [path.read_text(errors="replace") for path in jobs_api.logs.glob("*.log")]
    for kind in ("tracedataset", "finetunerun", "events", "configmap"):
        said.append(place.kubectl("-n", place.namespace, "get", kind, "-o", "json").stdout)
    store = open_store(f"s3://{bucket}/")
    folder = tmp_path / "published"
    for found in store.list(f"s3://{bucket}/"):
        path = found.uri.removeprefix(f"s3://{bucket}/")
        if path.startswith("traces/"):
            continue
        if path.endswith("/manifest.json"):
            digest = "sha256:" + path.split("/")[-2]
            fetch(
                ArtifactRef(uri=found.uri.removesuffix("manifest.json"), digest=digest),
                folder / digest[7:],
                DatasetManifest,
            )
        else:
            target = folder / "objects" / path.replace("/", "_")
            target.parent.mkdir(parents=True, exist_ok=True)
            store.download(join(f"s3://{bucket}/", path), target)
    said.append(plain_text(folder))
    text = "\n".join(said)
    assert "EMAIL_1" in text and "BADGE_1" in text
    for private in [BADGE.removeprefix("badge "), *(sample.private for sample in CORPUS)]:
        assert private not in text
        assert json.dumps(private)[1:-1] not in text
