"""Futures that follow from others."""

import asyncio

import pytest

from app.realtime.futures import done, now_or_later, then

from .client import DEADLINE_S


async def test_a_future_follows_another() -> None:
    first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    later = then(first, str)
    assert not later.done()
    first.set_result(1)
    assert await later == "1"
    assert await then(done(2), str) == "2"


async def test_a_result_that_is_known_already_needs_no_future() -> None:
    assert now_or_later(done(1), str) == "1"
    later = now_or_later(asyncio.get_running_loop().create_future(), str)
    assert isinstance(later, asyncio.Future)


async def test_a_failure_is_passed_on() -> None:
    failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    failed.set_exception(ValueError("told"))
    with pytest.raises(ValueError, match="told"):
        await then(failed, str)
    with pytest.raises(ValueError, match="told"):
        now_or_later(failed, str)


async def test_a_failure_of_what_follows_is_its_result() -> None:
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    later = then(first, int)
    first.set_result("none")
    with pytest.raises(ValueError, match="none"):
        await asyncio.wait_for(later, DEADLINE_S)


async def test_a_cancelled_future_cancels_what_follows() -> None:
    first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    later = then(first, str)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await later
