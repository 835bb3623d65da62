"""Whole runs or whole tenants are held out, and what a lineage has once held out it never trains on."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_traces.split import SplitConfig, SplitError, assign, target_runs
from sluice_traces.spool import Part, Spool


def split(runs, config, previous=None) -> dict[tuple[str, str], Part]:
    """Where each run goes; runs are (tenant, run, start, rows)."""
    with Spool() as spool:
        for (tenant, run), part in (previous or {}).items():
            spool.remember(tenant, run, part, f"{tenant}/{run}.json")
        for tenant, run, started, rows in runs:
            assert spool.add(tenant, run, f"{tenant}/{run}.json", started, b"{}\n" * rows, rows) is None
        assign(spool, config)
        return {(entry.tenant_id, entry.run_id): entry.part for entry in spool.lineage()}


def held(parts) -> set[tuple[str, str]]:
    return {name for name, part in parts.items() if part is Part.HOLDOUT}


def test_the_newest_runs_are_held_out():
    runs = [("a", f"r{i}", i, 2) for i in range(10)]
    assert held(split(runs, SplitConfig(holdout=0.2))) == {("a", "r8"), ("a", "r9")}


def test_an_unknown_start_counts_as_oldest():
    runs = [("a", f"r{i}", None if i == 9 else i, 1) for i in range(10)]
    assert held(split(runs, SplitConfig(holdout=0.1))) == {("a", "r8")}


def test_runs_without_rows_are_not_counted():
    runs = [("a", f"r{i}", i, int(i < 5)) for i in range(10)]
    assert held(split(runs, SplitConfig(holdout=0.2))) == {("a", "r4")}


@pytest.mark.parametrize(
    ("runs", "holdout", "expected"),
    [(0, 0.1, 0), (1, 0.5, 0), (2, 0.1, 1), (5, 0.1, 1), (15, 0.1, 2), (14, 0.1, 1), (100, 0.1, 10), (10, 0.0, 0)],
)
def test_the_share_is_rounded_and_leaves_both_sides_something(runs, holdout, expected):
    assert target_runs(runs, holdout) == expected


def test_a_later_version_keeps_what_was_held_out_and_adds_only_new_runs():
    first = [("a", f"r{i}", i, 1) for i in range(10)]
    before = split(first, SplitConfig(holdout=0.2))
    later = [*first, *(("a", f"r{i}", i, 1) for i in range(10, 20))]
    after = split(later, SplitConfig(holdout=0.2), before)
    assert held(after) == {("a", "r8"), ("a", "r9"), ("a", "r18"), ("a", "r19")}


def test_what_was_trained_on_is_never_held_out_even_when_it_is_newest():
    before = {("a", "new"): Part.TRAIN}
    runs = [("a", "new", 100, 1), ("a", "old1", 1, 1), ("a", "old2", 2, 1)]
    assert held(split(runs, SplitConfig(holdout=0.3), before)) == {("a", "old2")}


def test_a_run_whose_trace_is_gone_keeps_its_part_for_when_it_returns():
    parts = split([("a", "r1", 1, 1)], SplitConfig(), {("a", "gone"): Part.HOLDOUT, ("a", "was"): Part.TRAIN})
    assert parts[("a", "gone")] is Part.HOLDOUT
    assert parts[("a", "was")] is Part.TRAIN


def test_by_group_whole_tenants_are_held_out():
    runs = [(f"t{i % 5}", f"r{i}", i, 1) for i in range(50)]
    parts = split(runs, SplitConfig(holdout=0.2, by="group"))
    by_tenant = defaultdict(set)
    for (tenant, _), part in parts.items():
        by_tenant[tenant].add(part)
    assert all(len(found) == 1 for found in by_tenant.values())
    assert len(held(parts)) == 10


def test_by_group_a_held_tenant_stays_held_and_a_trained_one_trained():
    runs = [(f"t{i % 5}", f"r{i}", i, 1) for i in range(50)]
    before = split(runs, SplitConfig(holdout=0.2, by="group"))
    more = [*runs, *((f"t{i % 5}", f"r{i}", i, 1) for i in range(50, 100))]
    after = split(more, SplitConfig(holdout=0.2, by="group"), before)
    assert {tenant for tenant, _ in held(after)} == {tenant for tenant, _ in held(before)}
    assert len(held(after)) == 20


def test_by_group_one_tenant_cannot_be_split():
    with pytest.raises(SplitError, match="split by time, or set holdout to 0"):
        split([("a", f"r{i}", i, 1) for i in range(5)], SplitConfig(by="group"))


def test_two_tenants_give_one_to_each_side():
    runs = [("a", "r", 1, 1), ("b", "r", 2, 1)]
    assert len(held(split(runs, SplitConfig(by="group")))) == 1


@pytest.mark.parametrize("by", ["time", "group"])
def test_no_holdout_holds_nothing_out(by):
    runs = [("a", f"r{i}", i, 1) for i in range(5)]
    assert held(split(runs, SplitConfig(holdout=0.0, by=by))) == set()


@pytest.mark.parametrize("fields", [{"holdout": -0.1}, {"holdout": 0.6}, {"by": "row"}])
def test_a_senseless_split_is_refused(fields):
    with pytest.raises(ValueError, match=r"holdout is|by is"):
        SplitConfig(**fields)


runs_strategy = st.lists(
    st.tuples(st.sampled_from("abc"), st.text("rs", min_size=1, max_size=4), st.one_of(st.none(), st.integers(0, 9))),
    unique_by=lambda run: run[:2],
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(runs_strategy, st.sampled_from([0.1, 0.25, 0.5]), st.randoms(use_true_random=False))
def test_by_time_equals_the_plain_rule_in_any_order(runs, holdout, rng):
    listed = [(*run, 1) for run in runs]
    newest = sorted(runs, key=lambda run: (run[2] is not None, run[2] or 0, run[0], run[1]), reverse=True)
    expected = {run[:2] for run in newest[: target_runs(len(runs), holdout)]}
    rng.shuffle(listed)
    assert held(split(listed, SplitConfig(holdout=holdout))) == expected


@settings(max_examples=100, deadline=None)
@given(runs_strategy, runs_strategy, st.sampled_from(["time", "group"]))
def test_no_run_ever_changes_sides_in_a_lineage(first, second, by):
    config = SplitConfig(holdout=0.25, by=by)
    known = {run[:2] for run in first}
    later = [*first, *(run for run in second if run[:2] not in known)]
    try:
        before = split([(*run, 1) for run in first], config)
        after = split([(*run, 1) for run in later], config, before)
    except SplitError:
        return
    assert all(after[name] is part for name, part in before.items())
