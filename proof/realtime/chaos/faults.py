"""Fault injection: the faults, and a schedule that a seed determines."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import NamedTuple

import httpx

from ..processes import Node, Process
from ..redis.proxy import Proxy
from ..redis.servers import SocketServer
from .client import Client
from .follower import Follower

LASTS_S = (0.3, 3.0)
PAUSE_S = (0.5, 5.0)
"""Pause between two faults of one victim."""

LOST_EVERY_S = 0.1
"""Time from one lost answer to the next."""

Participants = Sequence[Client | Follower]

Faults = dict[str, Callable[[float], Awaitable[None]]]
"""The faults of one victim by name; each is injected for some seconds."""


class ScheduledFault(NamedTuple):
    """A fault, with its start and duration."""

    begins_s: float
    lasts_s: float
    name: str


def schedule(faults: Iterable[str], seconds: float, seed: str) -> Iterator[ScheduledFault]:
    """Yield faults of one victim that do not overlap, within so many seconds."""
    rng, choices = random.Random(seed), list(faults)
    begins_s = rng.uniform(*PAUSE_S)
    while True:
        fault = ScheduledFault(begins_s, rng.uniform(*LASTS_S), rng.choice(choices))
        begins_s += fault.lasts_s
        if begins_s > seconds:
            return
        yield fault
        begins_s += rng.uniform(*PAUSE_S)


def valkey_faults(valkey: SocketServer) -> Faults:
    """Return the faults of Valkey."""
    return {
        "killed": partial(kill, valkey),
        "frozen": partial(freeze, valkey),
        "flushed": partial(flush, valkey),
        "subscribers dropped": partial(drop_connections, valkey, "pubsub"),
        "publishers dropped": partial(drop_connections, valkey, "normal"),
    }


def answer_faults(proxy: Proxy) -> Faults:
    """Return the faults of the answers of Valkey."""
    return {"lost": partial(lose_answers, proxy)}


def node_faults(node: Node) -> Faults:
    """Return the faults of a node."""
    return {
        "killed": partial(kill, node),
        "frozen": partial(freeze, node),
        "restarted": partial(restart, node),
    }


def client_faults(
    clients: Participants, nodes: Sequence[Node], backend: Mapping[str, str]
) -> Faults:
    """Return the faults of clients; the nodes accept the headers of the backend."""
    return {
        "disconnected": partial(abort, clients),
        "evicted": partial(evict, clients, nodes, backend),
    }


async def kill(process: Process, lasts_s: float) -> None:
    """Kill a process, and start it again after a while."""
    process.kill()
    await asyncio.sleep(lasts_s)
    await process.start()


async def freeze(process: Process, lasts_s: float) -> None:
    """Suspend a process, which keeps its connections, and resume it after a while."""
    process.freeze()
    await asyncio.sleep(lasts_s)
    process.thaw()


async def restart(process: Process, lasts_s: float) -> None:
    """Terminate a process gracefully, and start it again after a while."""
    await process.stop()
    await asyncio.sleep(lasts_s)
    await process.start()


async def flush(valkey: SocketServer, lasts_s: float) -> None:
    """Delete all data, as an operator might by mistake."""
    async with valkey.client() as redis:
        await redis.flushall()


async def drop_connections(valkey: SocketServer, kind: str, lasts_s: float) -> None:
    """Close all connections of a type."""
    async with valkey.client() as redis:
        await redis.client_kill_filter(_type=kind)


async def lose_answers(proxy: Proxy, lasts_s: float) -> None:
    """Close connections after a message with a key was published, before the answer to it."""
    ends_at = monotonic() + lasts_s
    while monotonic() < ends_at:
        proxy.tear_answer_to(b":published:")
        await asyncio.sleep(LOST_EVERY_S)


async def abort(clients: Participants, lasts_s: float) -> None:
    """Abort the connections of a third of the clients."""
    for client in random.Random(lasts_s).sample(clients, k=-(-len(clients) // 3)):
        client.abort()


async def evict(
    clients: Participants, nodes: Sequence[Node], backend: Mapping[str, str], lasts_s: float
) -> None:
    """Take the users of a third of the clients out of their rooms."""
    rng = random.Random(lasts_s)
    async with httpx.AsyncClient(trust_env=False, timeout=LASTS_S[1]) as http:
        for client in rng.sample(clients, k=-(-len(clients) // 3)):
            url = f"http://127.0.0.1:{rng.choice(nodes).port}/rooms"
            for room in client.rooms:
                with suppress(httpx.HTTPError):  # the node may be killed or frozen
                    await http.post(
                        f"{url}/{room}/evict",
                        json={"user": client.user},
                        headers=backend,
                    )
