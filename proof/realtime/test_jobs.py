"""Background jobs: some are restarted, others stop the service."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from app.realtime import Service, jobs
from app.realtime.errors import Misconfigured
from app.realtime.jobs import Job, keep_running

from .client import DEADLINE_S
from .live import run_app
from .test_application import make_trusting

Run = Callable[[], Coroutine[None, None, None]]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FIRST_PAUSE_S", 0.0)


async def fail() -> None:
    raise RuntimeError


async def be_cancelled() -> None:
    raise asyncio.CancelledError


async def leave() -> None:
    sys.exit()


async def be_misconfigured() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(refuse())


async def refuse() -> None:
    raise Misconfigured


async def keep(job: Job) -> int:
    """Run a job to its end; return how often the service was told to stop."""
    stops: list[None] = []
    async with asyncio.timeout(DEADLINE_S):
        await keep_running(job, lambda: stops.append(None))
    return len(stops)


def test_a_job_is_a_coroutine_function() -> None:
    with pytest.raises(TypeError, match="print must be declared with async def"):
        Job(cast(Any, print))


async def test_a_job_may_end() -> None:
    async def end() -> None:
        pass

    assert await keep(Job(end, essential=True)) == 0


@pytest.mark.parametrize("failing", [fail, be_cancelled, leave])
async def test_a_failed_job_is_restarted(failing: Run) -> None:
    runs = 0

    async def fail_twice() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            await failing()

    with capture_logs() as lines:
        assert await keep(Job(fail_twice)) == 0
    assert runs == 3
    assert [line["event"] for line in lines] == ["background job failed"] * 2
    assert "fail_twice" in lines[0]["job"]


async def test_each_pause_is_twice_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FIRST_PAUSE_S", 0.001)
    failures = iter([fail, fail, fail])

    async def fail_three_times() -> None:
        for each in failures:
            await each()

    with capture_logs() as lines:
        assert await keep(Job(fail_three_times)) == 0
    assert [line["next_try_s"] for line in lines] == [0.001, 0.002, 0.004]


@pytest.mark.parametrize("failing", [fail, be_cancelled, leave])
async def test_a_failed_essential_job_stops_the_service(failing: Run) -> None:
    assert await keep(Job(failing, essential=True)) == 1


@pytest.mark.parametrize("essential", [False, True])
async def test_a_misconfigured_job_stops_the_service(essential: bool) -> None:
    assert await keep(Job(be_misconfigured, essential)) == 1


async def test_a_job_that_fails_while_it_is_stopped_is_logged() -> None:
    started = asyncio.Event()

    async def fail_at_the_end() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await fail()

    keeping = asyncio.create_task(keep_running(Job(fail_at_the_end), lambda: None))
    await started.wait()
    with capture_logs() as lines:
        keeping.cancel()
        await asyncio.wait([keeping], timeout=DEADLINE_S)
    assert keeping.cancelled()
    assert [line["event"] for line in lines] == ["background job failed"]


async def test_a_job_ends_with_the_service() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    keeping = asyncio.create_task(keep_running(Job(wait), lambda: None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping], timeout=DEADLINE_S)
    assert keeping.cancelled()
    assert ended.is_set()


async def test_the_jobs_that_started_last_stop_first() -> None:
    stopped: list[str] = []

    async def work(name: str, service: Service) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(name)

    async with run_app(make_trusting(jobs=[Job(partial(work, name)) for name in "abc"])):
        pass
    assert stopped == ["c", "b", "a"]
