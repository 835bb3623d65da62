"""What holds for every store, on a file system and on a real S3 server."""

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from concurrency import at_once
from sluice_artifacts import ArtifactError, ConflictError, CorruptError, NotFoundError, join, open_store

MIB = 1 << 20


@pytest.fixture
def store(root):
    return open_store(root)


def big_file(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(size).randbytes(size))
    return path


class TestObjects:
    def test_what_is_written_is_read(self, store, root):
        uri = join(root, "a", "b.json")
        assert not store.exists(uri)
        etag = store.write(uri, b"first \x00\xff")
        assert store.read_with_etag(uri) == (b"first \x00\xff", etag)
        assert store.exists(uri)
        assert store.sha256(uri) == hashlib.sha256(b"first \x00\xff").hexdigest()
        assert not store.exists(join(root, "a"))
        assert store.write(uri, b"second") != etag
        assert store.read(uri) == b"second"
        store.write(uri, b"")
        assert store.read(uri) == b""

    def test_delete_is_idempotent(self, store, root):
        uri = join(root, "x")
        store.write(uri, b"1")
        store.delete(uri)
        store.delete(uri)
        store.delete(join(root, "never", "was"))
        assert not store.exists(uri)

    def test_what_is_missing_is_named(self, store, root, tmp_path):
        uri = join(root, "absent.json")
        target = tmp_path / "copy"
        for call in (store.read, store.read_with_etag, store.sha256, lambda uri: store.download(uri, target)):
            with pytest.raises(NotFoundError, match=r"absent\.json: .*check") as caught:
                call(uri)
            assert caught.value.uri == uri
        assert not target.exists()

    @pytest.mark.parametrize("name", ["with space.json", "ünïcode-✓.json", "a+b&c=d?e#f.json", "a~b(c)'d.json"])
    def test_names_survive(self, store, root, name):
        uri = join(root, name)
        store.write(uri, b"x")
        assert [info.uri for info in store.list(root)] == [uri]
        assert store.read(uri) == b"x"

    def test_a_path_out_of_the_prefix_is_refused(self, store, root):
        with pytest.raises(ValueError, match="plain relative"):
            join(root, "../other")
        outside = root + "/../other.json"
        for call in (store.read, store.exists, store.delete, lambda uri: store.write(uri, b"x")):
            with pytest.raises(ArtifactError, match="refused"):
                call(outside)
        with pytest.raises(ArtifactError, match="refused"):
            list(store.list(root + "/../"))


class TestListing:
    def test_is_recursive_and_in_byte_order_and_stays_in_its_folder(self, store, root):
        names = ["p/b/c.json", "p/b-d.json", "p/b.json", "p/b/a.json", "p/Z", "p/é", "pp/x", "p.json", "q"]
        for name in names:
            store.write(join(root, name), name.encode())
        prefix = join(root, "p")
        expected = sorted((join(root, name) for name in names if name.startswith("p/")), key=str.encode)
        assert [info.uri for info in store.list(prefix)] == expected
        assert [info.uri for info in store.list(prefix + "/")] == expected

    def test_tells_size_and_time(self, store, root):
        store.write(join(root, "x"), b"12345")
        (info,) = store.list(root)
        assert info.size == 5
        assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=5)

    def test_etag_tells_a_changed_object_from_one_that_stayed(self, store, root):
        for name in "xy":
            store.write(join(root, name), b"1")
        before = {info.uri: info.etag for info in store.list(root)}
        store.write(join(root, "x"), b"2")
        after = {info.uri: info.etag for info in store.list(root)}
        assert [uri for uri in before if before[uri] != after[uri]] == [join(root, "x")]

    def test_of_nothing_is_empty(self, store, root):
        assert list(store.list(join(root, "nothing", "here"))) == []

    def test_goes_on_after_a_page(self, store, root):
        # S3 lists a thousand keys at a time.
        names = [f"{index:05d}" for index in range(1050)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.write(join(root, name), b""), names))
        assert [info.uri.rpartition("/")[2] for info in store.list(root)] == names


class TestStreaming:
    @pytest.mark.parametrize("size", [0, 1, 16 * MIB, 16 * MIB + 1, 64 * MIB], ids=lambda size: f"{size} bytes")
    def test_a_file_goes_up_and_comes_down(self, store, root, tmp_path, size):
        source, uri = big_file(tmp_path / "source", size), join(root, "weights.safetensors")
        expected = hashlib.sha256(source.read_bytes()).hexdigest()
        assert store.upload(source, uri) == expected
        assert next(iter(store.list(root))).size == size
        target = tmp_path / "new" / "folder" / "copy"
        assert store.download(uri, target, sha256=expected) == expected
        assert target.read_bytes() == source.read_bytes()
        assert [path.name for path in target.parent.iterdir()] == ["copy"]

    def test_corrupt_bytes_leave_no_file(self, store, root, tmp_path):
        uri, target = join(root, "x"), tmp_path / "copies" / "x"
        store.write(uri, b"good")
        promised = hashlib.sha256(b"good").hexdigest()
        store.write(uri, b"evil")
        with pytest.raises(CorruptError, match=promised):
            store.download(uri, target, sha256=promised)
        assert list(target.parent.iterdir()) == []

    def test_a_failed_download_keeps_the_old_copy(self, store, root, tmp_path):
        uri, target = join(root, "x"), tmp_path / "x"
        store.write(uri, b"evil")
        target.write_bytes(b"old")
        with pytest.raises(CorruptError):
            store.download(uri, target, sha256="0" * 64)
        assert target.read_bytes() == b"old"

    def test_a_file_that_is_not_there_is_not_uploaded(self, store, root, tmp_path):
        with pytest.raises(FileNotFoundError):
            store.upload(tmp_path / "absent", join(root, "x"))
        assert list(store.list(root)) == []


class TestConditions:
    def test_if_absent_refuses_what_exists(self, store, root):
        uri = join(root, "x")
        etag = store.write(uri, b"1", if_absent=True)
        with pytest.raises(ConflictError):
            store.write(uri, b"1", if_absent=True)
        assert store.read_with_etag(uri) == (b"1", etag)
        store.delete(uri)
        store.write(uri, b"3", if_absent=True)

    def test_if_match_refuses_what_changed_or_went(self, store, root):
        uri = join(root, "x")
        old = store.write(uri, b"1")
        new = store.write(uri, b"2", if_match=old)
        with pytest.raises(ConflictError, match="anew"):
            store.write(uri, b"3", if_match=old)
        assert store.read_with_etag(uri) == (b"2", new)
        store.delete(uri)
        with pytest.raises(ConflictError, match="anew"):
            store.write(uri, b"3", if_match=new)
        assert not store.exists(uri)

    def test_both_at_once_is_a_mistake(self, store, root):
        with pytest.raises(ValueError, match="exclude"):
            store.write(join(root, "x"), b"", if_absent=True, if_match="e")

    @pytest.mark.parametrize("size", [10, 17 * MIB], ids=["one request", "parts"])
    def test_upload_if_absent(self, store, root, tmp_path, size):
        source, uri = big_file(tmp_path / "source", size), join(root, "x")
        expected = store.upload(source, uri, if_absent=True)
        with pytest.raises(ConflictError):
            store.upload(big_file(tmp_path / "other", size + 1), uri, if_absent=True)
        assert hashlib.sha256(store.read(uri)).hexdigest() == expected


class TestRaces:
    def test_if_absent_has_exactly_one_winner(self, store, root):
        for round_number in range(10):
            uri = join(root, f"round-{round_number}")

            def claim(index, uri=uri):
                try:
                    store.write(uri, f"writer {index}".encode(), if_absent=True)
                except ConflictError:
                    return None
                return index

            winners = [index for index in at_once(12, claim) if index is not None]
            assert len(winners) == 1
            assert store.read(uri) == f"writer {winners[0]}".encode()

    def test_uploads_in_parts_have_exactly_one_winner(self, store, root, tmp_path):
        uri = join(root, "x")
        files = [big_file(tmp_path / str(index), 16 * MIB + 1 + index) for index in range(3)]

        def claim(index):
            try:
                return store.upload(files[index], uri, if_absent=True)
            except ConflictError:
                return None

        winners = [sha256 for sha256 in at_once(3, claim) if sha256]
        assert winners == [hashlib.sha256(store.read(uri)).hexdigest()]

    def test_compare_and_set_loses_no_update(self, store, root):
        uri = join(root, "counter")
        store.write(uri, b"0")

        def increment(_):
            done = 0
            while done < 5:
                value, etag = store.read_with_etag(uri)
                try:
                    store.write(uri, str(int(value) + 1).encode(), if_match=etag)
                except ConflictError:
                    continue
                done += 1

        at_once(8, increment)
        assert store.read(uri) == b"40"

    def test_a_reader_never_sees_half_a_write(self, store, root):
        uri = join(root, "x")
        contents = {bytes([value]) * 300_000 for value in b"ab"}
        store.write(uri, next(iter(contents)))
        done = threading.Event()

        def write():
            for _ in range(15):
                for content in contents:
                    store.write(uri, content)
            done.set()

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not done.is_set() and not writing.done():
                assert store.read(uri) in contents
            writing.result()


def test_other_schemes_are_refused():
    for uri in ("gs://bucket/x", "/plain/path", "http://host/x", ""):
        with pytest.raises(ArtifactError, match="file:///path or s3://"):
            open_store(uri)


@pytest.mark.parametrize(
    ("prefix", "parts", "expected"),
    [
        ("s3://b", ["x"], "s3://b/x"),
        ("s3://b/p/", ["x/", "y"], "s3://b/p/x/y"),
        ("s3://b/p", ["x/y/"], "s3://b/p/x/y/"),
        ("s3://b/p/", ["", "x"], "s3://b/p/x"),
        ("s3://b/p/", [], "s3://b/p/"),
        ("file:///", ["x"], "file:///x"),
        ("file:///a//", ["x"], "file:///a/x"),
    ],
)
def test_join(prefix, parts, expected):
    assert join(prefix, *parts) == expected


@pytest.mark.parametrize("part", ["..", "a/../b", "a//b", "./a", "a\\b", "a\nb", "/"])
def test_join_refuses_what_is_not_plain(part):
    with pytest.raises(ValueError, match="plain relative"):
        join("s3://b", part)
