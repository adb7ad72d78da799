"""What all claims promise. `test_idempotency` and its sibling run it, each on their own."""

import asyncio

import pytest

from app.realtime.errors import Unavailable
from app.realtime.idempotency import Claims, KeyReused, UnderWay, once


class ClaimsContract:
    """A fixture, ``claims``, remembers nothing yet."""

    async def test_a_request_is_carried_out_once(self, claims: Claims) -> None:
        done = []
        for _ in range(3):
            async with once(claims, "key", "request") as is_first:
                done.append(is_first)
        assert done == [True, False, False]

    async def test_other_keys_and_none_are_others(self, claims: Claims) -> None:
        for key in ("a", "b", "a:b", None, None):
            async with once(claims, key, "request") as is_first:
                assert is_first

    async def test_what_failed_may_be_repeated(self, claims: Claims) -> None:
        for failure in (Unavailable, asyncio.CancelledError):
            with pytest.raises(failure):
                await fail(claims, failure)
        async with once(claims, "key", "request") as is_first:
            assert is_first

    async def test_what_is_under_way_is_not_begun_again(self, claims: Claims) -> None:
        async with once(claims, "key", "request"):
            with pytest.raises(UnderWay):
                async with once(claims, "key", "request"):
                    raise AssertionError
        async with once(claims, "key", "request") as is_first:
            assert not is_first

    async def test_a_key_is_for_one_request(self, claims: Claims) -> None:
        async with once(claims, "key", "request"):
            pass
        with pytest.raises(KeyReused):
            async with once(claims, "key", "another"):
                raise AssertionError


async def fail(claims: Claims, failure: type[BaseException]) -> None:
    """Carry out a request that fails."""
    async with once(claims, "key", "request") as is_first:
        assert is_first
        raise failure
