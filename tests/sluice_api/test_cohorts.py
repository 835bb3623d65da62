"""Cohorts are repeatable, spread keys evenly, and a raised weight only adds to the candidate's."""

import hashlib
from collections import Counter
from itertools import pairwise

import pytest

from sluice_api.cohorts import COHORTS, candidate_cohorts, cohort_of


@pytest.mark.parametrize("key", ["", "run-1", "tenant-7", "Grüße", "\ud800"])
def test_a_cohort_is_the_documented_hash_of_its_key(key):
    digest = hashlib.sha1(key.encode(errors="surrogatepass")).digest()
    expected = (digest[0] << 24 | digest[1] << 16 | digest[2] << 8 | digest[3]) % 100
    assert cohort_of(key) == cohort_of(key) == expected


def test_golden_cohorts_stay_what_senders_in_other_languages_compute():
    assert [cohort_of(key) for key in ("run-1", "run-2", "tenant-7")] == [4, 72, 5]


def test_keys_spread_evenly():
    counts = Counter(cohort_of(f"run-{number}") for number in range(100_000))
    assert set(counts) == set(range(COHORTS))
    # Chi-squared of 99 degrees of freedom passes 149.4 once in a thousand times.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 149.4


@pytest.mark.parametrize("salt", ["", "a", "0b4c"])
def test_a_raised_weight_only_adds(salt):
    served = [candidate_cohorts(weight, salt) for weight in range(101)]
    assert [len(each) for each in served] == list(range(101))
    assert all(less < more for less, more in pairwise(served))


def test_another_salt_begins_with_other_cohorts():
    assert len({candidate_cohorts(5, f"rollout-{number}") for number in range(20)}) > 10


@pytest.mark.parametrize("weight", [-1, 101])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match="within 0 and 100"):
        candidate_cohorts(weight, "")
