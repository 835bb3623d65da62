"""The shadow router: golden vectors, shares, and what never changes as a share grows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_api.contracts.trace import Variant
from sluice_runtime.router import ShadowRouter

SALT = "rollout-2026-05"


@pytest.mark.parametrize(
    ("key", "bucket"),
    [("acme", 28.48), ("globex", 84.62), ("run123", 58.11), ("tenant-1", 14.93), ("tenant-17", 87.24)],
)
def test_buckets_are_the_golden_ones(key, bucket):
    assert ShadowRouter(salt=SALT).bucket(key) == bucket


def test_candidates_at_five_per_cent_are_the_golden_ones():
    router = ShadowRouter(5.0, SALT)
    candidates = [number for number in range(200) if router.route(f"run-{number}") == "candidate"]
    assert candidates == [25, 27, 52, 74, 138, 166, 175, 177, 181, 189]


def test_share_over_many_keys_is_the_asked_one():
    router = ShadowRouter(5.0, SALT)
    count = sum(router.route(f"run-{number}") == Variant.CANDIDATE for number in range(100_000))
    assert round(count / 1000, 2) == 5.02


@pytest.mark.parametrize("key", ["", None])
def test_a_run_without_a_key_gets_the_baseline_even_at_hundred(key):
    assert ShadowRouter(100.0, SALT).route(key) == "baseline"


def test_whitespace_is_a_key():
    router = ShadowRouter(100.0, SALT)
    assert router.route(" ") == "candidate"
    assert router.bucket(" ") != router.bucket("  ")


@pytest.mark.parametrize(
    ("given_pct", "kept"), [(-3.0, 0.0), (250.0, 100.0), (math.inf, 100.0), (12.5, 12.5), (7, 7.0)]
)
def test_share_is_clamped(given_pct, kept):
    assert ShadowRouter(given_pct).candidate_pct == kept


def test_a_share_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="candidate_pct"):
        ShadowRouter(math.nan)


def test_default_serves_the_baseline_alone():
    assert {ShadowRouter().route(f"run-{number}") for number in range(1000)} == {"baseline"}


def test_the_boundary_itself_belongs_to_the_baseline():
    assert ShadowRouter(28.48, SALT).route("acme") == "baseline"
    assert ShadowRouter(28.49, SALT).route("acme") == "candidate"


@given(key=st.text(min_size=1), low=st.floats(0, 100), high=st.floats(0, 100), salt=st.text())
def test_a_raised_share_never_takes_a_key_from_the_candidate(key, low, high, salt):
    low, high = sorted((low, high))
    if ShadowRouter(low, salt).route(key) == "candidate":
        assert ShadowRouter(high, salt).route(key) == "candidate"
    assert ShadowRouter(100.0, salt).route(key) == "candidate"
    assert ShadowRouter(0.0, salt).route(key) == "baseline"


def test_salts_spread_keys_independently():
    one, other = ShadowRouter(50.0, "a"), ShadowRouter(50.0, "b")
    agree = sum(one.route(f"k{number}") == other.route(f"k{number}") for number in range(10_000))
    # Standard deviation 50 around 5000: six of them.
    assert 4700 < agree < 5300
