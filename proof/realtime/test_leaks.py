"""Ended connections leave no memory, task or socket. LEAK_CYCLES sets the number of cycles."""

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


class Resources(NamedTuple):
    """Counts of what the process and the service hold."""

    connections: int
    protocols: int
    server_tasks: int
    tasks: int
    descriptors: int


def count_resources(live: Live) -> Resources:
    """Count the resources in use."""
    state = live.server.server_state
    return Resources(
        connections=len(live.service.manager),
        protocols=len(state.connections),
        server_tasks=len(state.tasks),
        tasks=len(asyncio.all_tasks()),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
    )


async def settled(live: Live) -> Resources:
    """Wait until no connection is left and nothing more ends; return what is in use."""
    counts = [count_resources(live)]

    def is_settled() -> bool:
        counts.append(count_resources(live))
        return counts[-1] == counts[-2] and counts[-1][:3] == (0, 0, 0)

    await wait_until(is_settled)
    return counts[-1]


def memory_bytes() -> int:
    """Return the resident memory of the process, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    """Run a service that is soon at capacity if connections leak."""
    settings = make_settings(max_connections=3 * STORM, max_connections_per_user=3 * STORM)
    async with run_service(settings) as live:
        yield live


async def close_normally(live: Live) -> None:
    async with raw_client(await live.options()) as client:
        await welcomed(client)
        client.send(masked_close(1000))
        assert await client.close_code() == 1000
        await client.ended()


async def reset(live: Live) -> None:
    async with raw_client(await live.options()) as client:
        await welcomed(client)
        client.vanish()


async def violate_the_protocol(live: Live) -> None:
    async with raw_client(await live.options()) as client:
        await welcomed(client)
        client.send(masked(b"", 3))
        assert await client.close_code() == 1002


async def abort_during_the_handshake(live: Live) -> None:
    async with raw_client(await live.options()):
        pass


async def send_a_foreign_origin(live: Live) -> None:
    async with raw_connection("127.0.0.1", live.port) as client:
        client.send(handshake(await live.options(), Origin="https://evil.test"))
        assert (await client.head()).startswith("HTTP/1.1 403 ")


async def send_a_malformed_request(live: Live) -> None:
    async with raw_connection("127.0.0.1", live.port) as client:
        client.send(b"nonsense\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 400 ")


async def welcomed(client: RawClient) -> None:
    await client.upgraded()
    assert (await client.text())["type"] == "welcome"


ENDINGS: list[Callable[[Live], Awaitable[None]]] = [
    close_normally,
    reset,
    violate_the_protocol,
    abort_during_the_handshake,
    send_a_foreign_origin,
    send_a_malformed_request,
]


@pytest.mark.hostile(78)
async def test_ended_connections_leave_no_resources(live: Live) -> None:
    for end in ENDINGS * 10:
        await end(live)
    before, memory_before = await settled(live), memory_bytes()
    for number in range(CYCLES):
        await ENDINGS[number % len(ENDINGS)](live)
    await wait_until(lambda: count_resources(live) == before)
    assert memory_bytes() - memory_before < GROWTH_BYTES


@pytest.mark.hostile(77)
async def test_a_reconnect_storm_leaves_no_resources(live: Live) -> None:
    before, memory_before = await settled(live), memory_bytes()
    for _ in range(max(2, CYCLES // STORM // 5)):
        options = [await live.options() for _ in range(STORM)]
        clients = await asyncio.gather(*map(Client.open, options))
        for client in clients:
            client.connection.transport.abort()
    del clients, client
    await wait_until(lambda: count_resources(live) == before)
    assert memory_bytes() - memory_before < GROWTH_BYTES
