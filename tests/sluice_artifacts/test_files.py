"""What only file systems have: links, folders, permissions, locks, processes that die."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sluice_artifacts import ArtifactError, ConflictError, ForbiddenError, NotFoundError, UnreachableError
from sluice_artifacts import files as files_module
from sluice_artifacts.files import FileStore, file_path
from sluice_artifacts.folders import folder_lock, new_folder


@pytest.fixture
def store():
    return FileStore()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("file://localhost/a/b", "/a/b"),
        ("file:///a%20b/c", "/a b/c"),
        ("file:///a b/c", "/a b/c"),
    ],
)
def test_paths_with_and_without_escapes(uri, path):
    assert str(file_path(uri)) == path


@pytest.mark.parametrize(
    "uri", ["file://host/a", "file://relative", "s3://b/k", "file:///a/../b", "file:///a/%2e%2e/b", "file:///a%00b"]
)
def test_what_is_no_absolute_path_of_this_machine_is_refused(uri):
    with pytest.raises(ArtifactError, match=r"file:///path|refused"):
        file_path(uri)


def test_a_percent_sign_in_a_name_survives_a_listing(store, tmp_path):
    (tmp_path / "50%25.json").write_bytes(b"x")
    (info,) = store.list(tmp_path.as_uri())
    assert store.read(info.uri) == b"x"


def test_a_folder_is_no_object(store, tmp_path):
    uri = tmp_path.as_uri()
    assert not store.exists(uri)
    for call in (lambda: store.write(uri, b"x"), lambda: store.delete(uri)):
        with pytest.raises(ArtifactError, match="is a folder"):
            call()
    with pytest.raises(NotFoundError):
        store.read(uri)


def test_a_file_in_the_way_of_a_folder_is_named(store, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    uri = f"{tmp_path.as_uri()}/file/below"
    with pytest.raises(ArtifactError, match="file/below"):
        store.write(uri, b"x")
    with pytest.raises(NotFoundError):
        store.read(uri)
    assert not store.exists(uri)
    assert list(store.list(uri)) == []


def test_links_are_followed_and_loops_end(store, tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "x").write_bytes(b"x")
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "real" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    found = {info.uri.removeprefix(tmp_path.as_uri() + "/") for info in store.list(tmp_path.as_uri())}
    assert {"alias/deep/x", "real/deep/x"} == {name for name in found if "up" not in name}


def test_unfinished_files_are_not_listed(store, tmp_path):
    (tmp_path / ".sluice-tmp-0123").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"whole")
    assert [info.uri for info in store.list(tmp_path.as_uri())] == [tmp_path.as_uri() + "/.hidden"]


def test_a_write_that_the_system_cuts_short_leaves_nothing(tmp_path):
    script = (
        "import resource, sys\nfrom sluice_artifacts import ArtifactError, open_store\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    open_store(sys.argv[1]).write(sys.argv[1], bytes(1 << 20))\n"
        "except ArtifactError as error:\n    print(error)\n"
    )
    uri = f"{tmp_path.as_uri()}/x"
    done = subprocess.run([sys.executable, "-c", script, uri], capture_output=True, text=True, check=True)
    assert done.stdout == f"{uri}: File too large; check the file system\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.ENOENT, NotFoundError, "check the path"),
        (errno.EACCES, ForbiddenError, "give this user access"),
        (errno.EROFS, ForbiddenError, "give this user access"),
        (errno.ESTALE, UnreachableError, "check the file system"),
        (errno.ENOSPC, ArtifactError, "No space left on device; check the file system"),
    ],
)
def test_system_errors_say_what_to_do(number, kind, remedy):
    with pytest.raises(ArtifactError, match=f"^file:///x: .*{remedy}") as caught, files_module._translated("file:///x"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind


def test_a_writer_that_never_lets_go_is_named(store, tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "LOCK_TIMEOUT_S", 0.05)
    uri = f"{tmp_path.as_uri()}/x"
    with files_module._folder_lock(uri, tmp_path), pytest.raises(UnreachableError, match="held the folder's lock"):
        store.write(uri, b"x")
    store.write(uri, b"x")


def test_a_file_system_without_folder_locks_gets_a_lock_file(store, tmp_path, monkeypatch):
    real = files_module.fcntl.flock

    def flock(descriptor, operation):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        return real(descriptor, operation)

    monkeypatch.setattr(files_module.fcntl, "flock", flock)
    uri = f"{tmp_path.as_uri()}/x"
    etag = store.write(uri, b"1")
    store.write(uri, b"2", if_match=etag)
    assert store.read(uri) == b"2"
    assert [info.uri for info in store.list(tmp_path.as_uri())] == [uri]


def test_a_file_system_without_links_still_refuses_what_exists(store, tmp_path, monkeypatch):
    def hardlink_to(self, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    uri = f"{tmp_path.as_uri()}/x"
    store.write(uri, b"1", if_absent=True)
    with pytest.raises(ConflictError, match="exists already"):
        store.write(uri, b"2", if_absent=True)
    assert store.read(uri) == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_last_file_takes_its_folder_along(store, tmp_path):
    uris = [f"{tmp_path.as_uri()}/runs/step/{name}" for name in ("complete.json", "weights")]
    for uri in uris:
        store.write(uri, b"x")
    store.delete(uris[0])
    assert (tmp_path / "runs" / "step").is_dir()
    store.delete(uris[1])
    store.delete(uris[1])
    assert not (tmp_path / "runs" / "step").exists()
    assert (tmp_path / "runs").is_dir()


def test_a_folder_that_is_removed_as_empty_under_a_writer_is_made_anew(store, tmp_path, monkeypatch):
    real, removed = files_module._make_folders, []

    def removed_once(folder):
        real(folder)
        if folder.name == "step" and not removed:
            removed.append(folder)
            files_module._remove_if_empty(folder)

    monkeypatch.setattr(files_module, "_make_folders", removed_once)
    uri = f"{tmp_path.as_uri()}/step/x"
    store.write(uri, b"x")
    assert removed == [tmp_path / "step"]
    assert store.read(uri) == b"x"


def test_a_lock_dies_with_its_holder(tmp_path):
    script = (
        "import sys, pathlib\nfrom sluice_artifacts.folders import folder_lock\n"
        "with folder_lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "x")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.communicate()
    with folder_lock(tmp_path / "x"):
        pass


def test_what_a_killed_maker_left_is_removed_by_the_next(tmp_path):
    script = (
        "import os, pathlib, signal, sys\nfrom sluice_artifacts.folders import folder_lock, new_folder\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "with folder_lock(place), new_folder(place) as folder:\n"
        "    (folder / 'part').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    def temporary():
        return {path.name for path in tmp_path.glob(".sluice-tmp-*")}

    for name in ("model", "model", "other"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False)
        assert temporary() == {f".sluice-tmp-{name}.new"}
    (tmp_path / ".sluice-tmp-model.old").mkdir()
    with folder_lock(tmp_path / "slow"), new_folder(tmp_path / "slow") as slow:
        assert temporary() == {slow.name}
        with folder_lock(tmp_path / "model"), new_folder(tmp_path / "model") as folder:
            (folder / "x").write_text("whole")
        assert temporary() == {slow.name}, "what is still being made stays"
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["x"]


def test_a_folder_that_was_not_finished_leaves_the_old_one(tmp_path):
    destination = tmp_path / "model"
    with new_folder(destination) as folder:
        (folder / "x").write_text("old")
    with pytest.raises(RuntimeError), new_folder(destination) as folder:
        (folder / "x").write_text("new")
        raise RuntimeError
    assert (destination / "x").read_text() == "old"
    assert list(tmp_path.iterdir()) == [destination]
    with new_folder(destination) as folder:
        (folder / "y").write_text("new")
    assert [path.name for path in destination.iterdir()] == ["y"]
