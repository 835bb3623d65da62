"""Copied requests stay dry, carry their request's ID, and never pass for a user's."""

import pytest

from sluice_api.contracts.trace import Variant
from sluice_runtime.mirror import read_request


def test_a_copy_is_served_dry_by_the_candidate_alone():
    headers = {"x-sluice-dry-run": "candidate", "X-Request-ID": "r-1"}
    copied = read_request(headers, Variant.CANDIDATE)
    assert (copied.variant, copied.dry, copied.request_id) == (Variant.MIRROR, True, "r-1")
    original = read_request(headers, Variant.BASELINE)
    assert (original.variant, original.dry, original.request_id) == (Variant.BASELINE, False, "r-1")


def test_a_user_s_request_is_served_as_ever():
    served = read_request({"X-Request-Id": " r-2 "}, Variant.CANDIDATE)
    assert (served.variant, served.dry, served.request_id) == (Variant.CANDIDATE, False, "r-2")
    assert read_request({}, Variant.BASELINE).request_id == ""


@pytest.mark.parametrize("value", ["", "true", "Candidate", "stable", "0"])
def test_an_odd_header_keeps_the_candidate_dry(value):
    assert read_request({"X-Sluice-Dry-Run": value}, Variant.CANDIDATE).dry


def test_a_server_must_know_its_arm():
    with pytest.raises(ValueError, match="baseline or candidate"):
        read_request({}, Variant.MIRROR)
