"""What many connections leave behind: nothing. LEAK_CYCLES=10000 looks for it longer."""

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from .client import Client
from .live import Live, make_settings, run_service, wait_until
from .raw_client import (
    RawClient,
    handshake,
    masked,
    masked_close,
    raw_client,
    raw_connection,
)

CYCLES = int(os.environ.get("LEAK_CYCLES", "1000"))
STORM = 100
GROWTH_BYTES = 20_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


class Holdings(NamedTuple):
    """What the process has, and the service in it."""

    connections: int
    protocols: int
    server_tasks: int
    tasks: int
    descriptors: int


def holdings(live: Live) -> Holdings:
    """Count."""
    state = live.server.server_state
    return Holdings(
        connections=len(live.service.manager),
        protocols=len(state.connections),
        server_tasks=len(state.tasks),
        tasks=len(asyncio.all_tasks()),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
    )


def memory_bytes() -> int:
    """Return how much of the process is in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    """Run a service that soon has no more places if some are not given back."""
    settings = make_settings(max_connections=3 * STORM, max_connections_per_user=3 * STORM)
    async with run_service(settings) as live:
        yield live


async def leave_properly(live: Live) -> None:
    async with raw_client(await live.options()) as client:
        await welcomed(client)
        client.send(masked_close(1000))
        assert await client.close_code() == 1000
        await client.ended()


async def vanish(live: Live) -> None:
    async with raw_client(await live.options()) as client:
        await welcomed(client)
        client.vanish()


async def break_the_rules(live: Live) -> None:
    async with raw_client(await live.options()) as client:
        await welcomed(client)
        client.send(masked(b"", 3))
        assert await client.close_code() == 1002


async def leave_during_the_handshake(live: Live) -> None:
    async with raw_client(await live.options()):
        pass


async def be_refused(live: Live) -> None:
    async with raw_connection("127.0.0.1", live.port) as client:
        client.send(handshake(await live.options(), Origin="https://evil.test"))
        assert (await client.head()).startswith("HTTP/1.1 403 ")


async def send_nonsense(live: Live) -> None:
    async with raw_connection("127.0.0.1", live.port) as client:
        client.send(b"nonsense\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 400 ")


async def welcomed(client: RawClient) -> None:
    await client.upgraded()
    assert (await client.text())["type"] == "welcome"


VISITS: list[Callable[[Live], Awaitable[None]]] = [
    leave_properly,
    vanish,
    break_the_rules,
    leave_during_the_handshake,
    be_refused,
    send_nonsense,
]


@pytest.mark.hostile(78)
async def test_who_comes_and_goes_leaves_nothing_behind(live: Live) -> None:
    for visit in VISITS * 10:
        await visit(live)
    await wait_until(lambda: holdings(live).protocols == 0)
    before, memory_before = holdings(live), memory_bytes()
    for number in range(CYCLES):
        await VISITS[number % len(VISITS)](live)
    await wait_until(lambda: holdings(live) == before)
    assert memory_bytes() - memory_before < GROWTH_BYTES


@pytest.mark.hostile(77)
async def test_a_storm_of_those_who_come_back_leaves_nothing_behind(live: Live) -> None:
    before, memory_before = holdings(live), memory_bytes()
    for _ in range(max(2, CYCLES // STORM // 5)):
        options = [await live.options() for _ in range(STORM)]
        clients = await asyncio.gather(*map(Client.open, options))
        for client in clients:
            client.connection.transport.abort()
    del clients, client
    await wait_until(lambda: holdings(live) == before)
    assert memory_bytes() - memory_before < GROWTH_BYTES
