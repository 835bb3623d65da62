"""Digests and the canonical form of JSON."""

import hashlib
import json
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import Turn
from sluice_artifacts import (
    ArtifactError,
    ConflictError,
    CorruptError,
    NotFoundError,
    canonical_json,
    digest_bytes,
    digest_file,
    digest_tree,
    from_hex,
    to_hex,
)


def test_known_digests(tmp_path):
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_bytes(b"") == empty
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_file(tmp_path / "abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert from_hex(to_hex(empty)) == empty


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 64, "0" * 64, "sha256:" + "0" * 63]
)
def test_what_is_no_digest_is_refused(digest):
    with pytest.raises(ValueError, match="64 lower-case"):
        to_hex(digest)


class TestCanonicalJson:
    def test_form(self):
        assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null]}\n'.encode()

    def test_models_go_by_alias_with_defaults_and_unknown_keys(self):
        turn = Turn.model_validate({"value": "v", "from": "gpt", "later": 1})
        assert canonical_json(turn) == b'{"from":"gpt","later":1,"value":"v"}\n'

    def test_the_order_of_keys_does_not_matter(self):
        first = ArtifactRef.model_validate({"uri": "file:///x", "digest": digest_bytes(b""), "z": 1, "a": 2})
        second = ArtifactRef.model_validate({"a": 2, "z": 1, "digest": digest_bytes(b""), "uri": "file:///x"})
        assert canonical_json(first) == canonical_json(second)

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_that_json_has_not_are_refused(self, number):
        with pytest.raises(ValueError, match="Out of range"):
            canonical_json({"x": number})
        turn = Turn.model_validate({"value": "v", "from": "gpt", "later": [{"deep": number}]})
        with pytest.raises(ValueError, match=r"Turn\.later\.0\.deep"):
            canonical_json(turn)

    @given(
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=4))
    )
    def test_says_what_was_said(self, value):
        assert json.loads(canonical_json({"x": value})) == {"x": value}


class TestTree:
    @pytest.fixture
    def tree(self, tmp_path):
        for name in ("b/c.txt", "b-d.txt", "a.txt", ".hidden", ".cache/x", "b/.git"):
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return tmp_path / "tree"

    def test_is_the_digest_of_what_sha256sum_prints(self, tree):
        names = ["a.txt", "b-d.txt", "b/c.txt"]
        listing = subprocess.run(["sha256sum", *names], cwd=tree, capture_output=True, check=True).stdout
        assert digest_tree(tree) == from_hex(hashlib.sha256(listing).hexdigest())

    def test_sees_content_names_and_additions_but_not_hidden_files(self, tree):
        before = digest_tree(tree)
        (tree / ".hidden").write_text("changed")
        assert digest_tree(tree) == before
        (tree / "a.txt").write_text("changed")
        changed = digest_tree(tree)
        (tree / "a.txt").rename(tree / "aa.txt")
        renamed = digest_tree(tree)
        (tree / "new").write_text("")
        assert len({before, changed, renamed, digest_tree(tree)}) == 4

    def test_follows_links(self, tree, tmp_path):
        linked = tmp_path / "linked"
        linked.mkdir()
        for path in tree.iterdir():
            (linked / path.name).symlink_to(path)
        assert digest_tree(linked) == digest_tree(tree)

    @pytest.mark.parametrize(
        ("place", "target"),
        [
            ("lost", "/nowhere/x"),
            ("b/lost", "lost"),
            ("lost", "."),
            ("b/lost", ".."),
            ("b/lost", "../b"),
            ("x", "a.txt/y"),
        ],
    )
    def test_a_link_that_leads_nowhere_or_in_a_circle_is_named(self, tree, place, target):
        (tree / place).symlink_to(target)
        with pytest.raises(CorruptError, match=f"tree/{place}: is a link .*remove it"):
            digest_tree(tree)

    def test_a_folder_may_be_seen_twice(self, tree):
        (tree / "again").symlink_to("b")
        assert digest_tree(tree)

    def test_hidden_links_do_not_count(self, tree):
        before = digest_tree(tree)
        (tree / ".lost").symlink_to("/nowhere/x")
        assert digest_tree(tree) == before

    def test_what_is_no_file_is_refused_without_being_opened(self, tree):
        os.mkfifo(tree / "pipe")
        with pytest.raises(CorruptError, match="pipe: is neither a file nor a folder"):
            digest_tree(tree)

    def test_of_nothing_is_an_error(self, tmp_path):
        with pytest.raises(NotFoundError, match="check the path"):
            digest_tree(tmp_path / "absent")
        with pytest.raises(CorruptError, match="holds no file"):
            digest_tree(tmp_path)


def test_errors_survive_pickling():
    import pickle

    for kind in (ArtifactError, ConflictError):
        error = pickle.loads(pickle.dumps(kind("s3://b/k", "was changed")))
        assert (type(error), error.uri, str(error)) == (kind, "s3://b/k", "s3://b/k: was changed")
