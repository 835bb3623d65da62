"""What only S3 can do wrong: refusals, missing buckets, endpoints that are gone, connections that break."""

import hashlib
import random
import socket
import threading

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError, NoCredentialsError

from faulty_proxy import FaultyProxy
from sluice_artifacts import (
    ArtifactError,
    ConflictError,
    CorruptError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
    open_store,
)
from sluice_artifacts import s3 as s3_module
from sluice_artifacts.s3 import location
from sluice_artifacts.s3_errors import translated

pytestmark = pytest.mark.integration


@pytest.fixture
def root(bucket):
    return f"s3://{bucket}"


def through(monkeypatch, url):
    """Send what follows through another endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)


def every_call(store, uri, tmp_path):
    """Yield each operation of a store, to be run against a storage that refuses it."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    yield lambda: store.read(uri)
    yield lambda: store.read_with_etag(uri)
    yield lambda: store.write(uri, b"x")
    yield lambda: store.write(uri, b"x", if_absent=True)
    yield lambda: store.download(uri, tmp_path / "copy")
    yield lambda: store.upload(source, uri)
    yield lambda: store.exists(uri)
    yield lambda: list(store.list(uri))
    yield lambda: store.delete(uri)


class TestRefusals:
    def test_a_wrong_secret_is_forbidden_by_name(self, root, monkeypatch, tmp_path):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        for call in every_call(open_store(root), root + "/x", tmp_path):
            with pytest.raises(ForbiddenError, match=r"AWS_SECRET_ACCESS_KEY|allow it for these credentials"):
                call()

    def test_an_unknown_key_is_forbidden_by_name(self, root, monkeypatch, tmp_path):
        open_store(root).write(root + "/x", b"1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        for call in every_call(open_store(root), root + "/x", tmp_path):
            with pytest.raises(ForbiddenError, match="AWS_ACCESS_KEY_ID"):
                call()

    def test_no_credentials_say_what_to_set(self, root, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ForbiddenError, match="set AWS_ACCESS_KEY_ID") as caught:
            open_store(root).read(root + "/x")
        assert isinstance(caught.value.__cause__, NoCredentialsError)

    def test_a_missing_bucket_is_named(self, root, tmp_path):
        missing = "s3://no-such-bucket-here"
        store = open_store(missing)
        (tmp_path / "big").write_bytes(bytes(17 << 20))
        calls = [
            lambda: store.read(missing + "/x"),
            lambda: store.write(missing + "/x", b"1"),
            lambda: store.write(missing + "/x", b"1", if_match="e"),
            lambda: store.upload(tmp_path / "big", missing + "/x"),
            lambda: list(store.list(missing)),
            lambda: store.delete(missing + "/x"),
            lambda: store.exists(missing + "/x"),
        ]
        for call in calls:
            with pytest.raises(NotFoundError, match=r"no such bucket at http.*create it") as caught:
                call()
            assert caught.value.uri == missing

    @pytest.mark.parametrize(
        "uri", ["s3://", "s3:///key", "s3://bucket", "s3://bucket/", "s3://bucket/folder/", "s3://Bad_Bucket!/x"]
    )
    def test_a_malformed_uri_is_refused(self, root, uri):
        with pytest.raises(ArtifactError, match="write s3://bucket/key"):
            open_store("s3://any").read(uri)

    def test_an_endpoint_that_is_no_url_is_refused(self, root, monkeypatch):
        through(monkeypatch, "not a url")
        with pytest.raises(ArtifactError, match="AWS_ENDPOINT_URL_S3"):
            open_store(root)


class TestUnreachable:
    def test_a_closed_port_is_named_with_the_variable(self, root, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        through(monkeypatch, url)
        with pytest.raises(UnreachableError, match=rf"{url} does not answer .*AWS_ENDPOINT_URL_S3"):
            open_store(root).read(root + "/x")

    def test_an_endpoint_that_never_answers_is_given_up(self, root, monkeypatch):
        monkeypatch.setattr(s3_module, "READ_TIMEOUT_S", 0.2)
        monkeypatch.setattr(s3_module, "REQUEST_ATTEMPTS", 2)
        with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
            through(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(UnreachableError, match="does not answer"):
                open_store(root).read(root + "/x")

    def test_a_timeout_to_connect_is_unreachable(self):
        with pytest.raises(UnreachableError, match="ConnectTimeoutError"), translated("s3://b/k", "http://far"):
            raise ConnectTimeoutError(endpoint_url="http://far")


class TestBrokenConnections:
    def test_a_download_goes_on_where_it_broke(self, root, s3_environment, monkeypatch, tmp_path):
        data = random.Random(1).randbytes(3 << 20)
        store = open_store(root)
        store.write(root + "/x", data)
        with FaultyProxy(s3_environment.endpoint_url, [1_500_000, 1_200_000]) as proxy:
            through(monkeypatch, proxy.url)
            sha256 = open_store(root).download(root + "/x", tmp_path / "x")
            assert proxy.connections == 3
        assert sha256 == hashlib.sha256(data).hexdigest()
        assert (tmp_path / "x").read_bytes() == data

    def test_a_download_that_keeps_breaking_is_given_up(self, root, s3_environment, monkeypatch, tmp_path):
        open_store(root).write(root + "/x", bytes(2 << 20))
        with FaultyProxy(s3_environment.endpoint_url, [100_000] * 20) as proxy:
            through(monkeypatch, proxy.url)
            with pytest.raises(UnreachableError, match="broke 4 times"):
                open_store(root).download(root + "/x", tmp_path / "x")
        assert list(tmp_path.iterdir()) == []

    def test_a_replaced_object_is_not_stitched_together(self, root, s3_environment, monkeypatch, tmp_path):
        direct = open_store(root)
        direct.write(root + "/x", b"a" * (3 << 20))
        with FaultyProxy(s3_environment.endpoint_url, [1_500_000]) as proxy:
            through(monkeypatch, proxy.url)
            chunks = iter(s3_module._Download(open_store(root)._client, proxy.url, root + "/x"))
            first = next(chunks)
            direct.write(root + "/x", b"b" * (3 << 20))
            with pytest.raises(ConflictError, match="replaced while it was read"):
                for chunk in chunks:
                    first += chunk
        assert set(first) == {ord("a")}

    @pytest.mark.parametrize("condition", ["if_absent", "if_match"])
    def test_a_lost_reply_to_a_conditional_write_is_recognised(self, root, s3_environment, monkeypatch, condition):
        uri = root + "/x"
        direct = open_store(root)
        arguments = {"if_absent": True} if condition == "if_absent" else {"if_match": direct.write(uri, b"old")}
        with FaultyProxy(s3_environment.endpoint_url, [0]) as proxy:
            through(monkeypatch, proxy.url)
            etag = open_store(root).write(uri, b"new", **arguments)
            assert proxy.connections > 1
        assert direct.read_with_etag(uri) == (b"new", etag)

    def test_somebody_elses_write_is_not_taken_for_ours(self, root, s3_environment, monkeypatch):
        uri = root + "/x"
        direct = open_store(root)
        direct.write(uri, b"theirs", if_absent=True)
        with FaultyProxy(s3_environment.endpoint_url, [0]) as proxy:
            through(monkeypatch, proxy.url)
            with pytest.raises(ConflictError):
                open_store(root).write(uri, b"ours", if_absent=True)
        assert direct.read(uri) == b"theirs"


class TestParts:
    def test_parts_are_invisible_until_complete_and_given_up_when_refused(self, root, bucket, tmp_path):
        store = open_store(root)
        (tmp_path / "big").write_bytes(bytes(40 << 20))
        store.write(root + "/x", b"first")
        with pytest.raises(ConflictError):
            store.upload(tmp_path / "big", root + "/x", if_absent=True)
        assert store.read(root + "/x") == b"first"
        assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)

    def test_an_upload_survives_a_broken_connection(self, root, s3_environment, monkeypatch, tmp_path):
        data = random.Random(2).randbytes(40 << 20)
        (tmp_path / "big").write_bytes(data)
        with FaultyProxy(s3_environment.endpoint_url, [None, 0, 0]) as proxy:
            through(monkeypatch, proxy.url)
            assert open_store(root).upload(tmp_path / "big", root + "/x") == hashlib.sha256(data).hexdigest()
            assert proxy.connections > 3
            assert open_store(root).read(root + "/x") == data


def test_bytes_that_differ_from_the_stored_checksum_are_corrupt(root, s3_environment, monkeypatch):
    data = b"0123456789" * 1000
    open_store(root).write(root + "/x", data)
    with _FlippingProxy(s3_environment.endpoint_url, b"0123456789", b"0123456780") as url:
        through(monkeypatch, url)
        with pytest.raises(CorruptError, match="checksum that the storage keeps"):
            open_store(root).read(root + "/x")


class _FlippingProxy:
    """Replaces bytes in the first answer: what a faulty disk or network card does."""

    def __init__(self, target_url, old, new):
        host, _, port = target_url.removeprefix("http://").partition(":")
        self._target, self._old, self._new = (host, int(port)), old, new
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self):
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_):
        self._thread.join(10)
        self._listener.close()

    def _serve(self):
        client, _ = self._listener.accept()
        with client, socket.create_connection(self._target) as server:
            server.sendall(client.recv(1 << 16).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = b""
            while chunk := server.recv(1 << 16):
                answer += chunk
            client.sendall(answer.replace(self._old, self._new))


def test_location_keeps_the_key_as_it_is():
    assert location("s3://bucket/a b/%20/c") == ("bucket", "a b/%20/c")
