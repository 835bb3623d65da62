"""The queue: one holder a key, the earliest wish stands, nothing that arrives meanwhile is lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_operator.index import ReferenceIndex
from sluice_operator.workqueue import Key, WorkQueue


class Clock:
    """A clock that tests advance."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def key(name="a", uid=None):
    return Key(kind="FineTuneRun", namespace="n", name=name, uid=uid or name)


async def taken(queue):
    """Return the next key that is due now, None where there is none; never waits for time to pass."""
    task = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


async def test_the_earliest_wish_stands():
    clock = Clock()
    queue = WorkQueue(clock=clock)
    queue.add(key(), after=10)
    queue.add(key(), after=2)
    queue.add(key(), after=5)
    assert await taken(queue) is None
    clock.now = 2
    assert await taken(queue) == key()
    queue.done(key())
    clock.now = 100
    assert await taken(queue) is None


async def test_a_key_in_work_is_not_handed_out_again_but_comes_afterwards():
    queue = WorkQueue(clock=Clock())
    queue.add(key())
    assert await taken(queue) == key()
    queue.add(key())
    assert await taken(queue) is None
    queue.done(key())
    assert await taken(queue) == key()
    queue.done(key())
    assert await taken(queue) is None


async def test_a_dropped_key_does_not_come_back():
    queue = WorkQueue(clock=Clock())
    queue.add(key())
    queue.drop(key())
    assert await taken(queue) is None
    queue.add(key())
    assert await taken(queue) == key()
    queue.add(key())
    queue.drop(key())
    queue.done(key())
    assert await taken(queue) is None


async def test_depth_and_lag_tell_what_is_due_and_for_how_long():
    clock = Clock()
    queue = WorkQueue(clock=clock)
    queue.add(key("a"))
    queue.add(key("b"), after=30)
    assert (queue.depth(), queue.lag()) == (1, 0.0)
    clock.now = 40
    assert (queue.depth(), queue.lag()) == (2, 40.0)
    assert await taken(queue) == key("a")
    clock.now = 60
    assert queue.depth() == 1
    assert queue.lag() == 30.0
    assert await taken(queue) == key("b")
    queue.done(key("a"))
    queue.done(key("b"))
    assert queue.lag() == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50)), max_size=30))
def test_keys_come_in_order_of_their_earliest_wish(wishes):
    async def come():
        clock = Clock()
        queue = WorkQueue(clock=clock)
        for name, after in wishes:
            queue.add(key(name), after=after)
        clock.now = 100
        order = []
        while (got := await taken(queue)) is not None:
            order.append(got.name)
            queue.done(got)
        return order

    order = asyncio.run(come())
    earliest = {name: min(after for other, after in wishes if other == name) for name, _ in wishes}
    assert sorted(order) == sorted(earliest)
    assert [earliest[name] for name in order] == sorted(earliest.values())


async def test_a_waiter_wakes_when_something_earlier_arrives():
    queue = WorkQueue()
    queue.add(key("late"), after=30)
    task = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    queue.add(key("now"))
    assert await asyncio.wait_for(task, 5) == key("now")


async def test_a_delay_is_kept_to_a_fraction_of_a_second():
    queue = WorkQueue()
    loop = asyncio.get_running_loop()
    started = loop.time()
    queue.add(key(), after=0.2)
    await asyncio.wait_for(queue.take(), 10)
    assert loop.time() - started == pytest.approx(0.2, abs=0.15)


def test_dependents_are_found_by_name_and_by_kind():
    index = ReferenceIndex()
    one, two = key("one"), key("two")
    index.record(one, [("TraceDataset", "n", "data")])
    index.record(two, [("ShadowRollout", "n", "")])
    assert index.dependents("TraceDataset", "n", "data") == {one}
    assert index.dependents("TraceDataset", "other", "data") == set()
    assert index.dependents("ShadowRollout", "n", "anything") == {two}
    index.record(one, [("TraceDataset", "n", "other")])
    assert index.dependents("TraceDataset", "n", "data") == set()
    assert index.by_uid("one") == one
    index.forget(one)
    assert index.dependents("TraceDataset", "n", "other") == set()
    assert index.by_uid("one") is None
    assert index.known() == {two}
