"""Batches, and items that are processed again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import pytest

from app.realtime.redis.worker import Worker

from ..live import wait_until

Work = Callable[[list[str]], Collection[str]]


@asynccontextmanager
async def run_worker(work: Work, batch_weight: int = 2) -> AsyncIterator[Worker[str]]:
    """Run a worker."""

    async def do(batch: list[str]) -> Collection[str]:
        return work(batch)

    worker = Worker(do, batch_weight=batch_weight)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_items_are_done_once_in_batches_the_oldest_first() -> None:
    done: list[list[str]] = []

    def work(batch: list[str]) -> Collection[str]:
        done.append(batch)
        return ()

    async with run_worker(work) as worker:
        for item in "abcaeb":
            worker.add(item)
        assert (len(worker), worker.weight) == (4, 4)
        await wait_until(lambda: not worker)
        assert done == [["a", "b"], ["c", "e"]]
        worker.add("a")
        await wait_until(lambda: done[2:] == [["a"]])


# {% if cookiecutter.rooms %}
async def test_discarded_items_are_not_done() -> None:
    done: list[list[str]] = []

    def work(batch: list[str]) -> Collection[str]:
        done.append(batch)
        return ()

    async with run_worker(work) as worker:
        for item in "ab":
            worker.add(item)
        worker.discard("a")
        worker.discard("strange")
        assert (len(worker), worker.weight) == (1, 1)
        await wait_until(lambda: done == [["b"]])


# {% endif %}
async def test_a_batch_ends_where_its_weight_is_reached() -> None:
    done: list[list[str]] = []

    def work(batch: list[str]) -> Collection[str]:
        done.append(batch)
        return ()

    async with run_worker(work, batch_weight=10) as worker:
        for item, weight in {"a": 4, "b": 5, "c": 100, "d": 1}.items():
            worker.add(item, weight)
        assert worker.weight == 110
        await wait_until(lambda: not worker)
    assert done == [["a", "b", "c"], ["d"]]
    assert worker.weight == 0


async def test_what_failed_is_done_again_behind_the_others() -> None:
    done: list[str] = []

    def work(batch: list[str]) -> Collection[str]:
        failed = [item for item in batch if item == "b" and "b" not in done]
        done.extend(batch)
        return failed

    async with run_worker(work) as worker:
        for item in "abc":
            worker.add(item)
        await wait_until(lambda: not worker and len(done) == 4)
    assert done == ["a", "b", "c", "b"]


async def test_an_exception_in_work_ends_the_worker() -> None:
    async def fail(batch: list[str]) -> Collection[str]:
        raise ConnectionError

    worker = Worker(fail, batch_weight=1)
    worker.add("a")
    with pytest.raises(ConnectionError):
        await worker.run()
