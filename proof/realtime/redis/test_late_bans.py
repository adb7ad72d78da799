"""Bans in Redis after the node that set them, and during a handshake."""

import asyncio

import pytest

from app.realtime.protocol import REVOKED

from ..client import DEADLINE_S
from ..http.test_bans import disconnect, everybody_is_alice
from ..live import run_service
from .test_backplane import settings_for
from .valkey import Valkey

__all__ = ["everybody_is_alice"]  # a fixture


async def test_a_ban_outlives_the_node(shared_valkey: Valkey) -> None:
    settings = settings_for(shared_valkey)
    async with run_service(settings) as live:
        await disconnect(live, 60)
    async with run_service(settings) as live:
        refused = await live.connect_with(await live.options(), welcomed=False)
        assert await refused.closed() == REVOKED
        await disconnect(live, 0)


@pytest.mark.hostile(86)
async def test_a_ban_after_the_lookup_closes_the_connection(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(shared_valkey)
    async with run_service(settings) as first, run_service(settings) as second:
        looked_up, banned = asyncio.Event(), asyncio.Event()
        get = first.service.bans.get

        async def get_early(user: str) -> str | None:
            value = await get(user)
            looked_up.set()
            await banned.wait()
            return value

        monkeypatch.setattr(first.service.bans, "get", get_early)
        connecting = asyncio.create_task(first.connect_with(await first.options(), welcomed=False))
        async with asyncio.timeout(DEADLINE_S):
            await looked_up.wait()
        await disconnect(second, 60)
        banned.set()
        assert await (await connecting).closed() == REVOKED
        await disconnect(second, 0)
