"""Rows computed together: who waits, who does not, and what a bad row does to its neighbours."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from reinforge.errors import DataError
from reinforge.serving.batching import Batcher, Pace
from reinforge.serving.limits import Limits
from reinforge.serving.refusals import Refused


class Doubling:
    """Stands for a bundle: doubles numbers, refuses text, and notes what it computed at once and in which thread."""

    def __init__(self):
        self.seen, self.threads = [], []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, rows):
        self.gate.wait(5)
        self.seen.append(list(rows))
        self.threads.append(threading.current_thread() is threading.main_thread())
        for index, row in enumerate(rows):
            if not isinstance(row, int):
                raise DataError("no number", where=f"row {index}")
        return [{"y": 2 * row} for row in rows]

    def predict_each(self, rows):
        return [{"y": 2 * row} if isinstance(row, int) else DataError("no number", where="row") for row in rows]


def run(coroutine_of, limits=None, known=True):
    """The coroutine on a batcher; with `known` its computations are known to be short, and run on the loop."""
    bundle = Doubling()
    with ThreadPoolExecutor(1) as pool:

        async def main():
            batcher = Batcher(bundle, limits or Limits(), pool)
            if known:
                batcher._pace.observe(1, 1e-5)
            return await coroutine_of(batcher, bundle)

        return asyncio.run(main()), bundle


def test_what_comes_in_one_turn_is_computed_together_and_each_gets_its_own():
    async def ask(batcher, bundle):
        return await asyncio.gather(*(batcher.submit([k, k + 1], False) for k in range(0, 20, 2)))

    found, bundle = run(ask)
    assert found == [[{"y": 2 * k}, {"y": 2 * k + 2}] for k in range(0, 20, 2)]
    assert bundle.seen == [list(range(20))]
    assert bundle.threads == [True], "what is short runs on the loop itself"


def test_what_is_not_known_to_be_short_runs_in_a_thread():
    async def ask(batcher, bundle):
        return await batcher.submit([1], False)

    _found, bundle = run(ask, known=False)
    assert bundle.threads == [False]


def test_a_lone_request_starts_at_once_and_the_next_takes_what_waited_meanwhile():
    async def ask(batcher, bundle):
        bundle.gate.clear()
        first = batcher.submit([1], False)
        await asyncio.sleep(0.05)
        others = [batcher.submit([k], False) for k in (2, 3, 4)]
        assert batcher.busy
        assert batcher.rows_waiting == 3
        bundle.gate.set()
        return await asyncio.gather(first, *others)

    _found, bundle = run(ask, known=False)
    assert bundle.seen == [[1], [2, 3, 4]]


def test_a_batch_has_no_more_rows_than_allowed_but_for_a_request_that_has_them_alone():
    async def ask(batcher, bundle):
        return await asyncio.gather(*(batcher.submit([0] * count, False) for count in (3, 3, 9, 1)))

    _found, bundle = run(ask, Limits(batch=4))
    assert [len(rows) for rows in bundle.seen] == [3, 3, 9, 1]


def test_a_bad_row_fails_its_own_request_alone():
    async def ask(batcher, bundle):
        asked = [batcher.submit(rows, partial) for rows, partial in (([1], False), ([2, "x"], False), ([3, "x"], True))]
        return await asyncio.gather(*asked, return_exceptions=True)

    (good, bad, partial), _bundle = run(ask)
    assert good == [{"y": 2}]
    assert isinstance(bad, DataError)
    assert bad.where == "row 1", "the row's number is that in its own request"
    assert partial[0] == {"y": 6}
    assert partial[1]["error"]["problem"] == "no number"


@pytest.mark.parametrize("known", [True, False], ids=["on the loop", "in a thread"])
def test_a_fault_of_ours_is_its_own_requests_alone(known):
    """And the batcher goes on: nobody waits for what will never come."""

    async def ask(batcher, bundle):
        whole = bundle.predict

        def predict(rows):
            if 13 in rows:
                raise RuntimeError("it breaks")
            return whole(rows)

        bundle.predict = predict
        asked = [batcher.submit([row], False) for row in (1, 13, 2)]
        found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
        return found, await asyncio.wait_for(batcher.submit([3], False), 10)

    (found, later), _bundle = run(ask, known=known)
    assert (found[0], found[2], later) == ([{"y": 2}], [{"y": 4}], [{"y": 6}])
    assert isinstance(found[1], RuntimeError)


def test_a_full_queue_refuses_with_429_and_a_time():
    async def ask(batcher, bundle):
        bundle.gate.clear()
        first = batcher.submit([0], False)
        await asyncio.sleep(0.05)
        waiting = [batcher.submit([k] * 4, False) for k in range(2)]
        with pytest.raises(Refused) as caught:
            batcher.submit([0], False)
        bundle.gate.set()
        await asyncio.gather(first, *waiting)
        assert batcher.rows_waiting == 0
        await batcher.submit([1], False)
        return caught.value

    refused, _bundle = run(ask, Limits(queue=8), known=False)
    assert refused.status == 429
    assert refused.after is not None


def test_who_gave_up_is_not_computed_and_who_waited_too_long_is_told():
    async def ask(batcher, bundle):
        bundle.gate.clear()
        first = batcher.submit([0], False)
        await asyncio.sleep(0.02)
        gone, late = batcher.submit([1], False), batcher.submit([2], False)
        gone.cancel()
        await asyncio.sleep(0.2)
        bundle.gate.set()
        await first
        with pytest.raises(Refused) as caught:
            await late
        return caught.value

    refused, bundle = run(ask, Limits(wait=0.1), known=False)
    assert refused.status == 503
    assert bundle.seen == [[0]]


def test_a_computation_that_does_not_end_is_noticed():
    async def ask(batcher, bundle):
        bundle.gate.clear()
        first = batcher.submit([0], False)
        assert not batcher.stuck
        await asyncio.sleep(0.1)
        stuck = batcher.stuck
        bundle.gate.set()
        await first
        return stuck, batcher.stuck

    (while_it_ran, afterwards), _bundle = run(ask, Limits(stuck=0.05), known=False)
    assert while_it_ran
    assert not afterwards


def test_the_pace_is_expected_from_the_nearest_smaller_size():
    pace = Pace()
    assert pace.expected(1) == float("inf")
    pace.observe(1, 0.001)
    assert pace.expected(1) == 0.001
    assert pace.expected(4) == pytest.approx(0.004)
    pace.observe(4, 0.0015)
    assert pace.expected(7) == 0.0015
    pace.observe(4, 0.0025)
    assert pace.expected(4) == pytest.approx(0.0017)
