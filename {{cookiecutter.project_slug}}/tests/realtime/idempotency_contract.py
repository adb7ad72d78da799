"""The contract of claims; each implementation's test module inherits it."""

import asyncio

import pytest

from app.realtime.errors import Unavailable
from app.realtime.idempotency import Claims, KeyReused, UnderWay, once


class ClaimsContract:
    """The fixture ``claims`` is empty."""

    async def test_a_repeated_request_is_executed_once(self, claims: Claims) -> None:
        done = []
        for _ in range(3):
            async with once(claims, "key", "request") as is_first:
                done.append(is_first)
        assert done == [True, False, False]

    async def test_requests_with_other_keys_or_none_are_executed(self, claims: Claims) -> None:
        for key in ("a", "b", "a:b", None, None):
            async with once(claims, key, "request") as is_first:
                assert is_first

    async def test_a_failed_request_may_be_repeated(self, claims: Claims) -> None:
        for failure in (Unavailable, asyncio.CancelledError):
            with pytest.raises(failure):
                await fail(claims, failure)
        async with once(claims, "key", "request") as is_first:
            assert is_first

    async def test_a_request_in_progress_is_not_executed_again(self, claims: Claims) -> None:
        async with once(claims, "key", "request"):
            with pytest.raises(UnderWay):
                async with once(claims, "key", "request"):
                    raise AssertionError
        async with once(claims, "key", "request") as is_first:
            assert not is_first

    async def test_a_key_cannot_be_reused_for_another_request(self, claims: Claims) -> None:
        async with once(claims, "key", "request"):
            pass
        with pytest.raises(KeyReused):
            async with once(claims, "key", "another"):
                raise AssertionError


async def fail(claims: Claims, failure: type[BaseException]) -> None:
    """Execute a request that fails."""
    async with once(claims, "key", "request") as is_first:
        assert is_first
        raise failure
