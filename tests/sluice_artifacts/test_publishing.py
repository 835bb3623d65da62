"""Immutable artifacts: manifest last, digests checked, the same however often and by however many."""

import os
import signal
import subprocess
import sys
import time

import pytest

from concurrency import at_once
from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import DatasetManifest, FileEntry
from sluice_api.contracts.models import Channel
from sluice_artifacts import (
    ArtifactError,
    ConflictError,
    CorruptError,
    NotFoundError,
    canonical_json,
    digest_bytes,
    fetch,
    join,
    move_channel,
    open_store,
    publish,
    publish_document,
    read_channel,
    read_document,
    read_manifest,
    to_hex,
)

FILES = {"train.jsonl": b'{"row": 1}\n', "deep/holdout.jsonl": b""}


def manifest(files):
    return DatasetManifest(files=files, rows=1, holdout_rows=0)


def names_below(root):
    return [info.uri.removeprefix(root + "/") for info in open_store(root).list(root)]


class TestPublish:
    def test_what_is_published_is_fetched(self, root, tmp_path):
        (tmp_path / "weights").write_bytes(bytes(range(256)) * 100_000)
        files = {**FILES, "weights.safetensors": tmp_path / "weights"}
        ref = publish(root, files, manifest)
        assert ref.uri == f"{root}/{to_hex(ref.digest)}/"
        assert digest_bytes(open_store(root).read(ref.uri + "manifest.json")) == ref.digest
        document = fetch(ref, tmp_path / "copy", DatasetManifest)
        assert document == read_manifest(ref, DatasetManifest)
        assert [entry.path for entry in document.files] == sorted(files)
        assert (tmp_path / "copy" / "deep" / "holdout.jsonl").read_bytes() == b""
        assert (tmp_path / "copy" / "weights.safetensors").read_bytes() == (tmp_path / "weights").read_bytes()

    def test_again_is_a_no_op(self, root):
        ref = publish(root, FILES, manifest)
        before = {info.uri: (info.modified, info.etag) for info in open_store(root).list(root)}
        assert publish(root, FILES, manifest) == ref
        assert {info.uri: (info.modified, info.etag) for info in open_store(root).list(root)} == before

    @pytest.mark.parametrize("damage", [b"x", b'{"row": 2}\n', None])
    def test_again_mends_what_was_damaged(self, root, tmp_path, damage):
        ref = publish(root, FILES, manifest)
        store, uri = open_store(root), ref.uri + "train.jsonl"
        before = {info.uri: (info.modified, info.etag) for info in store.list(root) if info.uri != uri}
        store.delete(uri) if damage is None else store.write(uri, damage)
        assert publish(root, FILES, manifest) == ref
        fetch(ref, tmp_path / "copy", DatasetManifest)
        assert (tmp_path / "copy" / "train.jsonl").read_bytes() == FILES["train.jsonl"]
        assert {info.uri: (info.modified, info.etag) for info in store.list(root) if info.uri != uri} == before

    def test_other_content_lies_beside_it(self, root):
        first = publish(root, FILES, manifest)
        second = publish(root, {**FILES, "train.jsonl": b"other"}, manifest)
        assert first.digest != second.digest
        assert len(names_below(root)) == 6

    def test_by_many_at_once_is_one_artifact(self, root, tmp_path):
        refs = at_once(6, lambda _: publish(root, FILES, manifest))
        assert len({ref.digest for ref in refs}) == 1
        assert len(names_below(root)) == 3
        fetch(refs[0], tmp_path / "copy", DatasetManifest)

    @pytest.mark.parametrize("path", ["../x", "/x", "a//b", "manifest.json", "50%", ""])
    def test_a_path_that_is_not_plain_is_refused_before_anything_is_sent(self, root, path):
        with pytest.raises(ValueError, match=r"plain relative|cannot be published"):
            publish(root, {**FILES, path: b"x"}, manifest)
        assert names_below(root) == []

    def test_a_manifest_that_omits_a_file_is_refused(self, root):
        with pytest.raises(ValueError, match=r"DatasetManifest\.files"):
            publish(root, FILES, lambda files: manifest(files[1:]))
        with pytest.raises(ValueError, match="is no manifest"):
            publish(root, FILES, lambda files: ArtifactRef(uri="x", digest=digest_bytes(b"")))
        assert names_below(root) == []

    def test_a_file_that_changes_meanwhile_is_noticed(self, root, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(b"before")

        def changing(files):
            path.write_bytes(b"after")
            return manifest(files)

        with pytest.raises(CorruptError, match="changed while it was published"):
            publish(root, {"x": path}, changing)
        assert not any(name.endswith("manifest.json") for name in names_below(root))

    def test_another_manifest_under_the_digest_is_not_overwritten(self, root):
        ref = publish(root, FILES, manifest)
        open_store(root).write(ref.uri + "manifest.json", b"{}")
        with pytest.raises(CorruptError, match="another content"):
            publish(root, FILES, manifest)


class TestCrash:
    def test_between_two_uploads_leaves_nothing_visible_and_can_be_repeated(self, root, tmp_path):
        """SIGKILL while the second file is being read, which a pipe without a writer makes last."""
        script = (
            "import os, pathlib, sys\n"
            "from sluice_api.contracts.dataset import DatasetManifest\n"
            "from sluice_artifacts import publish\n"
            "root, path = sys.argv[1], pathlib.Path(sys.argv[2])\n"
            "def manifest(files):\n"
            "    if path.name == 'b':\n"
            "        path.unlink(); os.mkfifo(path)\n"
            "    return DatasetManifest(files=files, rows=1, holdout_rows=0)\n"
            "publish(root, {'a': b'first', 'b': path}, manifest)\n"
        )
        (tmp_path / "b").write_bytes(b"second")
        worker = subprocess.Popen([sys.executable, "-c", script, root, str(tmp_path / "b")], env=dict(os.environ))
        deadline = time.monotonic() + 60
        while not names_below(root):
            assert worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        contents = {"a": b"first", "b": b"second"}
        expected = manifest(
            [FileEntry(path=name, sha256=to_hex(digest_bytes(data)), size=len(data)) for name, data in contents.items()]
        )
        digest = digest_bytes(canonical_json(expected))
        assert names_below(root) == [f"{to_hex(digest)}/a"]
        unfinished = ArtifactRef(uri=f"{root}/{to_hex(digest)}/", digest=digest)
        with pytest.raises(NotFoundError):
            read_manifest(unfinished, DatasetManifest)
        assert publish(root, contents, manifest) == unfinished
        assert fetch(unfinished, tmp_path / "copy", DatasetManifest) == expected


class TestFetch:
    @pytest.fixture
    def ref(self, root):
        return publish(root, FILES, manifest)

    def test_a_changed_file_is_refused_and_leaves_nothing(self, ref, tmp_path):
        open_store(ref.uri).write(ref.uri + "train.jsonl", b'{"row": 2}\n')
        with pytest.raises(CorruptError, match=r"train\.jsonl: .*was expected"):
            fetch(ref, tmp_path / "out" / "copy", DatasetManifest)
        assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".sluice-lock")] == []

    def test_a_changed_manifest_is_refused(self, ref, tmp_path):
        open_store(ref.uri).write(ref.uri + "manifest.json", b"{}")
        for call in (
            lambda: fetch(ref, tmp_path / "copy", DatasetManifest),
            lambda: read_manifest(ref, DatasetManifest),
        ):
            with pytest.raises(CorruptError, match=ref.digest):
                call()

    def test_a_missing_file_is_named(self, ref, tmp_path):
        open_store(ref.uri).delete(ref.uri + "train.jsonl")
        with pytest.raises(NotFoundError, match=r"train\.jsonl"):
            fetch(ref, tmp_path / "copy", DatasetManifest)
        assert not (tmp_path / "copy").exists()

    def test_a_manifest_that_writes_elsewhere_is_refused(self, root, tmp_path):
        entry = FileEntry(path="../../escaped", sha256=to_hex(digest_bytes(b"x")), size=1)
        evil = publish_document(root, "manifest.json", manifest([entry]))
        ref = ArtifactRef(uri=evil.uri.removesuffix("manifest.json"), digest=evil.digest)
        with pytest.raises(CorruptError, match="refused"):
            fetch(ref, tmp_path / "deep" / "copy", DatasetManifest)
        assert not (tmp_path / "escaped").exists()

    def test_an_intact_copy_is_used_and_a_damaged_one_replaced(self, ref, tmp_path):
        fetch(ref, tmp_path / "copy", DatasetManifest)
        inode = (tmp_path / "copy").stat().st_ino
        open_store(ref.uri).delete(ref.uri + "train.jsonl")
        fetch(ref, tmp_path / "copy", DatasetManifest)
        assert (tmp_path / "copy").stat().st_ino == inode
        open_store(ref.uri).write(ref.uri + "train.jsonl", FILES["train.jsonl"])
        (tmp_path / "copy" / "train.jsonl").write_bytes(b"damaged")
        fetch(ref, tmp_path / "copy", DatasetManifest)
        assert (tmp_path / "copy" / "train.jsonl").read_bytes() == FILES["train.jsonl"]

    def test_by_many_at_once_ends_in_one_whole_copy(self, ref, tmp_path):
        documents = at_once(5, lambda _: fetch(ref, tmp_path / "copy", DatasetManifest))
        assert len(set(map(canonical_json, documents))) == 1
        assert (tmp_path / "copy" / "train.jsonl").read_bytes() == FILES["train.jsonl"]
        assert {path.name for path in tmp_path.iterdir()} - {"store"} == {"copy", ".sluice-lock-copy"}


class TestDocuments:
    def test_roundtrip(self, root):
        document = manifest([])
        ref = publish_document(root, "report.json", document)
        assert ref.uri == f"{root}/{to_hex(ref.digest)}/report.json"
        assert ref.digest == digest_bytes(canonical_json(document))
        assert read_document(ref, DatasetManifest) == document
        assert publish_document(root, "report.json", document) == ref

    def test_other_bytes_are_refused(self, root):
        ref = publish_document(root, "report.json", manifest([]))
        open_store(root).write(ref.uri, b"{}")
        with pytest.raises(CorruptError, match=r"publish it again or correct the digest"):
            read_document(ref, DatasetManifest)
        with pytest.raises(CorruptError, match="another content"):
            publish_document(root, "report.json", manifest([]))

    def test_another_kind_of_document_is_named_by_its_field_and_not_its_content(self, root):
        ref = publish_document(root, "x.json", ArtifactRef(uri="private text", digest=digest_bytes(b"")))
        with pytest.raises(CorruptError, match="is no DatasetManifest: files: Field required") as caught:
            read_document(ref, DatasetManifest)
        assert "private text" not in str(caught.value)

    def test_a_missing_document_is_named(self, root):
        ref = ArtifactRef(uri=join(root, "x.json"), digest=digest_bytes(b""))
        with pytest.raises(NotFoundError, match=r"x\.json"):
            read_document(ref, DatasetManifest)


class TestChannels:
    def channel(self, content=b"1", name="stable"):
        return Channel(name=name, digest=digest_bytes(content), base_model={"uri": "hf://a/b"})

    def test_is_created_read_and_moved(self, root):
        assert read_channel(root, "stable") is None
        etag = move_channel(root, self.channel(), etag=None)
        assert read_channel(root, "stable") == (self.channel(), etag)
        moved = move_channel(root, self.channel(b"2"), etag=etag)
        assert read_channel(root, "stable") == (self.channel(b"2"), moved)
        assert names_below(root) == ["channels/stable.json"]

    def test_a_stale_move_changes_nothing(self, root):
        stale = move_channel(root, self.channel(), etag=None)
        move_channel(root, self.channel(b"2"), etag=stale)
        for etag in (stale, None):
            with pytest.raises(ConflictError, match="channel 'stable' was moved by another writer"):
                move_channel(root, self.channel(b"3"), etag=etag)
        assert read_channel(root, "stable")[0] == self.channel(b"2")

    def test_of_many_movers_exactly_one_wins(self, root):
        etag = move_channel(root, self.channel(b"start"), etag=None)

        def move(index):
            # A mover whose document equals the one that is there leaves its etag as it was, and a second may win.
            try:
                return move_channel(root, self.channel(b"mover %d" % index), etag=etag)
            except ConflictError:
                return None

        winners = [found for found in at_once(12, move) if found]
        assert winners == [read_channel(root, "stable")[1]]

    @pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"name":"other"}'])
    def test_what_is_no_channel_is_corrupt_not_missing(self, root, data):
        open_store(root).write(join(root, "channels", "stable.json"), data)
        with pytest.raises(CorruptError, match="restore or delete it"):
            read_channel(root, "stable")

    def test_anothers_channel_is_corrupt(self, root):
        uri = join(root, "channels", "stable.json")
        open_store(root).write(uri, canonical_json(self.channel(name="canary")))
        with pytest.raises(CorruptError, match="names itself 'canary'"):
            read_channel(root, "stable")

    @pytest.mark.parametrize("name", ["", "..", "a/b", "../stable"])
    def test_a_name_is_one_segment(self, root, name):
        with pytest.raises(ValueError, match=r"plain relative|slash"):
            read_channel(root, name)

    @pytest.mark.integration
    def test_a_missing_bucket_is_no_missing_channel(self, bucket):
        with pytest.raises(ArtifactError, match="no such bucket"):
            read_channel("s3://no-such-bucket-here", "stable")
