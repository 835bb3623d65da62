"""Base models: from a folder, a bucket, a hub; only whole, plain, verified weights come through."""

import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import pytest

from concurrency import at_once
from sluice_api.contracts.base import ModelRef
from sluice_artifacts import (
    CorruptError,
    NotFoundError,
    digest_tree,
    fetch_model,
    fetch_model_and_digest,
    join,
    open_store,
)

TENSORS = b"\x00\x01\x02\x03" * 64


def safetensors(data=TENSORS):
    """A safetensors file with one tensor of four-byte floats."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


GOOD = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": safetensors(),
    "tokenizer.json": b"{}",
    "deep/notes.txt": b"x",
}


@pytest.fixture
def place(root):
    """Write a model below the root and return its URI."""

    def write(files):
        for name, data in files.items():
            open_store(root).write(join(root, "model", name), data)
        return join(root, "model")

    return write


class TestFolderAndBucket:
    def test_a_good_model_is_verified(self, place, tmp_path):
        uri = place(GOOD)
        folder = fetch_model(ModelRef(uri=uri), tmp_path / "cache")
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(GOOD)
        digest = digest_tree(folder)
        assert fetch_model_and_digest(ModelRef(uri=uri), tmp_path / "cache") == (folder, digest)
        assert fetch_model(ModelRef(uri=uri, digest=digest), tmp_path / "cache") == folder

    def test_another_digest_is_refused(self, place, tmp_path):
        uri = place(GOOD)
        with pytest.raises(CorruptError, match="the model has changed"):
            fetch_model(ModelRef(uri=uri, digest="sha256:" + "0" * 64), tmp_path / "cache")

    def test_a_changed_model_is_seen(self, place, tmp_path):
        uri = place(GOOD)
        before = digest_tree(fetch_model(ModelRef(uri=uri), tmp_path / "cache"))
        place({"model.safetensors": safetensors(TENSORS[::-1])})
        assert digest_tree(fetch_model(ModelRef(uri=uri), tmp_path / "cache")) != before

    @pytest.mark.parametrize(
        "name", ["pytorch_model.bin", "model.pt", "a.pth", "x.pkl", "x.PICKLE", "last.ckpt", "deep/training_args.bin"]
    )
    def test_a_pickle_is_refused_by_name_and_never_run(self, place, tmp_path, name):
        canary = tmp_path / "canary"

        class Evil:
            def __reduce__(self):
                return open, (str(canary), "w")

        uri = place({**GOOD, name: pickle.dumps(Evil())})
        with pytest.raises(CorruptError, match=rf"refused: {name} can run code"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")
        assert not canary.exists()

    def test_a_pickle_under_the_name_of_safetensors_is_refused(self, place, tmp_path):
        uri = place({**GOOD, "model.safetensors": pickle.dumps({"w": 1})})
        with pytest.raises(CorruptError, match=r"model\.safetensors is truncated or no safetensors"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    @pytest.mark.parametrize("keep", [0, 7, 8, 40, -1])
    def test_truncated_weights_are_refused(self, place, tmp_path, keep):
        uri = place({**GOOD, "model.safetensors": safetensors()[:keep]})
        with pytest.raises(CorruptError, match="truncated"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    def test_code_is_refused(self, place, tmp_path):
        uri = place({**GOOD, "modeling_own.py": b""})
        with pytest.raises(CorruptError, match=r"modeling_own\.py is code"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    def test_a_configuration_that_asks_for_code_is_refused(self, place, tmp_path, name):
        uri = place({**GOOD, name: b'{"auto_map": {"AutoModel": "own.Model"}}'})
        with pytest.raises(CorruptError, match=f"{name} asks for code"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    @pytest.mark.parametrize(
        "place_named",
        [
            ".hidden.safetensors",
            "../outside.safetensors",
            "/elsewhere/x.safetensors",
            "weights.data",
            "absent.safetensors",
            "./model.safetensors",
            7,
        ],
    )
    def test_an_index_that_leads_out_of_the_digest_is_refused(self, place, tmp_path, place_named):
        index = {"weight_map": {"v": "model.safetensors", "w": place_named}}
        files = {".hidden.safetensors": safetensors(), "weights.data": safetensors()}
        uri = place({**GOOD, **files, "model.safetensors.index.json": json.dumps(index).encode()})
        with pytest.raises(CorruptError, match=r"model\.safetensors\.index\.json looks for w in .*no safetensors file"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    def test_an_index_of_files_that_are_there_is_let_through(self, place, tmp_path):
        index = json.dumps({"weight_map": {"w": "model.safetensors"}}).encode()
        other = {"deep/model.safetensors.index.json": index, "deep/model.safetensors": safetensors()}
        uri = place({**GOOD, **other, "model.safetensors.index.json": index})
        fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    @pytest.mark.parametrize("data", [b"[]", b"{}", b'{"weight_map": []}', b"[" * 100_000])
    def test_an_index_of_another_form_is_refused(self, place, tmp_path, data):
        uri = place({**GOOD, "model.safetensors.index.json": data})
        with pytest.raises(CorruptError, match=r"model\.safetensors\.index\.json (has no weight_map|is no JSON)"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    def test_a_configuration_that_takes_weights_from_elsewhere_is_refused(self, place, tmp_path):
        files = {**GOOD, ".hidden.safetensors": safetensors()}
        uri = place({**files, "config.json": b'{"transformers_weights": ".hidden.safetensors"}'})
        with pytest.raises(CorruptError, match="which the digest does not cover"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    def test_an_adapter_in_a_base_is_refused(self, place, tmp_path):
        uri = place({**GOOD, "adapter_config.json": b"{}", "adapter_model.safetensors": safetensors()})
        with pytest.raises(CorruptError, match=r"adapter_config\.json would have an adapter added"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    def test_a_broken_configuration_is_refused(self, place, tmp_path):
        uri = place({**GOOD, "config.json": b"{"})
        with pytest.raises(CorruptError, match=r"config\.json is no JSON"):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    @pytest.mark.parametrize(
        ("missing", "message"), [("config.json", "no config.json"), ("model.safetensors", "no \\*")]
    )
    def test_what_is_missing_is_named(self, place, tmp_path, missing, message):
        uri = place({name: data for name, data in GOOD.items() if name != missing})
        with pytest.raises(NotFoundError, match=message):
            fetch_model(ModelRef(uri=uri), tmp_path / "cache")

    def test_a_missing_model_is_named(self, root, tmp_path):
        with pytest.raises(NotFoundError, match="check the base model"):
            fetch_model(ModelRef(uri=join(root, "absent")), tmp_path / "cache")

    def test_by_many_at_once_is_one_copy(self, place, tmp_path):
        uri = place(GOOD)
        assert len(set(at_once(4, lambda _: fetch_model(ModelRef(uri=uri), tmp_path / "cache")))) == 1

    @pytest.mark.integration
    @pytest.mark.parametrize("pinned", [True, False])
    @pytest.mark.parametrize("damage", ["a bit", "cut", "gone", "a hidden file", "the record"])
    def test_a_damaged_copy_of_a_bucket_is_fetched_again(self, bucket, tmp_path, pinned, damage):
        uri = f"s3://{bucket}/model"
        for name, data in (GOOD | {".gitattributes": b"x"}).items():
            open_store(uri).write(join(uri, name), data)
        digest = digest_tree(fetch_model(ModelRef(uri=uri), tmp_path))
        ref = ModelRef(uri=uri, digest=digest if pinned else None)
        folder = fetch_model(ref, tmp_path)
        inode, weights = folder.stat().st_ino, folder / "model.safetensors"
        if damage == "a bit":
            weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
        elif damage == "cut":
            weights.write_bytes(weights.read_bytes()[:-8])
        elif damage == "gone":
            weights.unlink()
        elif damage == "the record":
            next(folder.parent.glob(f".sluice-digest-{folder.name}")).unlink()
        else:
            (folder / ".other").write_bytes(b"")
        assert fetch_model(ref, tmp_path) == folder
        assert digest_tree(folder) == digest
        assert (folder.stat().st_ino == inode) == (damage == "a hidden file")

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("https://host/model", "base models are"),
            ("nonsense", "base models are"),
            ("hf://a/b/c", "hf://owner/name"),
            ("hf://a b/c", "hf://owner/name"),
            ("hf://../etc", "hf://owner/name"),
            ("s3://", "s3://bucket/key"),
            ("s3:///model", "s3://bucket/key"),
            ("s3://bucket/../model", "write the key that is meant"),
            ("file://relative", "file:///path"),
            ("file://host/x", "file:///path"),
            ("file:///a/../b", "write the path that is meant"),
        ],
    )
    def test_a_uri_that_can_name_no_model_is_missing_for_good(self, tmp_path, uri, message):
        with pytest.raises(NotFoundError, match=message):
            fetch_model(ModelRef(uri=uri), tmp_path)

    @pytest.mark.integration
    def test_an_object_whose_name_no_file_can_have_is_refused(self, bucket, s3_environment, tmp_path):
        client = boto3.client("s3", endpoint_url=s3_environment.endpoint_url, region_name="us-east-1")
        client.put_object(Bucket=bucket, Key="model/deep\\x.json", Body=b"{}")
        with pytest.raises(CorruptError, match="is not a plain relative path; rename the object"):
            fetch_model(ModelRef(uri=f"s3://{bucket}/model"), tmp_path)


COMMIT = "0123456789abcdef0123456789abcdef01234567"
ON_THE_HUB = {**GOOD, "pytorch_model.bin": b"pickle", "modeling_own.py": b"code", "README.md": b"# card"}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a snapshot needs."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, *, with_body):
        path = self.path.partition("?")[0]
        if "owner/gated" in path:
            return self.send(403, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
        if "owner/broken" in path:
            return self.send(400, b"{}", {}, with_body)
        if "owner/model" not in path:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        if "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in ON_THE_HUB.items()]
            return self.send(200, json.dumps(tree).encode(), {}, with_body)
        if "/revision/" in path:
            if not path.endswith(("/main", COMMIT)):
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
            siblings = [{"rfilename": name} for name in ON_THE_HUB]
            return self.send(
                200, json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode(), {}, with_body
            )
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        data = ON_THE_HUB[name]
        return self.send(200, data, {"ETag": f'"{hash(name):x}"', "X-Repo-Commit": COMMIT}, with_body)

    def send(self, status, data, headers, with_body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)


@pytest.fixture(scope="module")
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


FETCH = """
import json, pathlib, sys
from sluice_api.contracts.base import ModelRef
from sluice_artifacts import ArtifactError, fetch_model
answers = []
for uri, revision in json.loads(sys.argv[1]):
    try:
        answers.append(["ok", str(fetch_model(ModelRef(uri=uri, revision=revision), pathlib.Path(sys.argv[2])))])
    except ArtifactError as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


class TestHub:
    """In a process of its own: the hub's client reads its settings when it is imported."""

    @pytest.fixture
    def fetch_hub(self, hub, tmp_path):
        def run(models, **variables):
            settings = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", **variables}
            done = subprocess.run(
                [sys.executable, "-c", FETCH, json.dumps(models), str(tmp_path / "cache")],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                check=True,
            )
            return json.loads(done.stdout.splitlines()[-1])

        return run

    def test_only_plain_files_are_downloaded_and_serve_offline(self, fetch_hub):
        ((kind, folder),) = fetch_hub([("hf://owner/model", COMMIT)])
        assert kind == "ok", folder
        found = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
        assert found == set(GOOD)
        assert fetch_hub([("hf://owner/model", COMMIT)], HF_HUB_OFFLINE="1") == [["ok", folder]]

    def test_refusals_say_what_to_do(self, fetch_hub):
        expected = {
            ("hf://owner/absent", ""): ("NotFoundError", "no such model, or it is private"),
            ("hf://owner/model", "nope"): ("NotFoundError", "no revision nope"),
            ("hf://owner/gated", ""): ("ForbiddenError", "accept its licence and set HF_TOKEN"),
            ("hf://owner/broken", ""): ("UnreachableError", "the hub answered 400"),
        }
        answers = fetch_hub(list(expected))
        for (kind, text), (expected_kind, message) in zip(answers, expected.values(), strict=True):
            assert (kind, message in text) == (expected_kind, True), text

    @pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
    def test_a_hub_out_of_reach_is_told(self, fetch_hub, variables):
        ((kind, text),) = fetch_hub([("hf://owner/model", "")], **variables)
        assert kind == "UnreachableError"
        assert "not in the local cache and the hub cannot be reached" in text
