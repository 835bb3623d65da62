"""The channel resolver on real pointers: what it caches, what it holds on to, and what it refuses."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import Channel
from sluice_artifacts import UnreachableError, move_channel, read_channel
from sluice_artifacts.files import file_path
from sluice_runtime.errors import ResolveError
from sluice_runtime.resolver import ChannelResolver, ResolverConfig

BASE = ModelRef(uri="hf://owner/base", digest="sha256:" + "0" * 64)
ON_BASE = Channel(name="stable", digest=BASE.digest, base_model=BASE)
ADAPTER = ArtifactRef(uri="s3://bucket/adapters/a/", digest="sha256:" + "a" * 64)
ON_ADAPTER = Channel(name="stable", digest=ADAPTER.digest, base_model=BASE, adapter=ADAPTER, last_good=BASE.digest)


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def root(tmp_path):
    return (tmp_path / "store").as_uri()


@pytest.fixture
def resolver(root, clock):
    return ChannelResolver(ResolverConfig(root=root, ttl_s=2.0), clock=clock)


def point(root, channel):
    """Point the channel somewhere, by compare-and-set like everybody."""
    found = read_channel(root, channel.name)
    move_channel(root, channel, etag=found[1] if found else None)


def test_a_channel_gives_base_and_adapter(root, resolver):
    point(root, ON_ADAPTER)
    served = resolver.resolve()
    assert (served.digest, served.base_model, served.adapter) == (ADAPTER.digest, BASE, ADAPTER)
    assert resolver.error is None


def test_a_channel_may_serve_the_base_alone(root, resolver):
    point(root, ON_BASE)
    served = resolver.resolve()
    assert (served.digest, served.adapter) == (BASE.digest, None)


def test_a_move_shows_after_the_ttl_and_not_before(root, resolver, clock):
    point(root, ON_BASE)
    assert resolver.resolve().digest == BASE.digest
    point(root, ON_ADAPTER)
    clock.now += 1.99
    assert resolver.resolve().digest == BASE.digest
    clock.now += 0.01
    assert resolver.resolve().digest == ADAPTER.digest


@pytest.mark.parametrize("trouble", ["damaged", "gone"])
def test_the_last_good_pointer_stays_in_service(root, resolver, clock, caplog, trouble):
    point(root, ON_ADAPTER)
    assert resolver.resolve().digest == ADAPTER.digest
    path = file_path(resolver._config.uri)
    if trouble == "damaged":
        path.write_text("{")
    else:
        path.unlink()
    for _ in range(3):
        clock.now += 2
        assert resolver.resolve().digest == ADAPTER.digest
    assert resolver.error
    assert caplog.text.count("stays in service") == 1
    path.unlink(missing_ok=True)
    point(root, ON_BASE)
    clock.now += 2
    assert resolver.resolve().digest == BASE.digest
    assert resolver.error is None


def test_a_channel_that_never_was_is_refused_until_it_is(root, resolver, clock):
    with pytest.raises(ResolveError, match=r"channels/stable\.json: there is no such channel; create it"):
        resolver.resolve()
    point(root, ON_BASE)
    clock.now += 2
    assert resolver.resolve().digest == BASE.digest


def test_storage_that_is_down_is_asked_once_a_ttl(root, resolver, clock, monkeypatch):
    asked = []

    def down(root, name):
        asked.append(name)
        raise UnreachableError(root, "does not answer; try again later")

    monkeypatch.setattr("sluice_runtime.resolver.read_channel", down)
    for _ in range(5):
        with pytest.raises(ResolveError, match="does not answer"):
            resolver.resolve()
    assert asked == ["stable"]
    clock.now += 2
    with pytest.raises(ResolveError):
        resolver.resolve()
    assert len(asked) == 2


def test_one_thread_reads_while_the_others_go_on(root, resolver, clock, monkeypatch):
    point(root, ON_BASE)
    resolver.resolve()
    point(root, ON_ADAPTER)
    clock.now += 2
    reading, go_on, reads = threading.Event(), threading.Event(), []

    def slow(root, name):
        reads.append(name)
        reading.set()
        assert go_on.wait(30)
        return read_channel(root, name)

    monkeypatch.setattr("sluice_runtime.resolver.read_channel", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(resolver.resolve)
        assert reading.wait(30)
        assert [resolver.resolve().digest for _ in range(20)] == [BASE.digest] * 20
        go_on.set()
        assert first.result(30).digest == ADAPTER.digest
    assert reads == ["stable"]
    assert resolver.resolve().digest == ADAPTER.digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"root": ""}, "root"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "slash"),
        ({"name": ".."}, "name"),
        ({"ttl_s": -1}, "ttl_s"),
        ({"ttl_s": float("nan")}, "ttl_s"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(root, fields, message):
    with pytest.raises(ValueError, match=message):
        ResolverConfig(**{"root": root, **fields})
