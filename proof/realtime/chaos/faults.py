"""The faults: what is done to whom, and when. A seed decides, so that it can be done again."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ..processes import Node, Process
from ..redis.servers import SocketServer
from .client import Client

LASTS_S = (0.3, 3.0)
PAUSE_S = (0.5, 5.0)
"""How long a victim is left alone."""

Deeds = dict[str, Callable[[float], Awaitable[None]]]
"""What can be done to a victim for some seconds, by the word for what then has happened to it."""


class Fault(NamedTuple):
    """A deed, when it is done, and for how long."""

    begins_s: float
    lasts_s: float
    deed: str


def schedule(deeds: Iterable[str], seconds: float, seed: str) -> Iterator[Fault]:
    """Yield the faults of one victim, one after the other, all within so many seconds."""
    rng, choices = random.Random(seed), list(deeds)
    begins_s = rng.uniform(*PAUSE_S)
    while True:
        fault = Fault(begins_s, rng.uniform(*LASTS_S), rng.choice(choices))
        begins_s += fault.lasts_s
        if begins_s > seconds:
            return
        yield fault
        begins_s += rng.uniform(*PAUSE_S)


def deeds_on_valkey(valkey: SocketServer) -> Deeds:
    """Return what can be done to Valkey."""
    return {
        "killed": partial(kill, valkey),
        "frozen": partial(freeze, valkey),
        "emptied": partial(empty, valkey),
        "without subscribers": partial(drop, valkey, "pubsub"),
        "without publishers": partial(drop, valkey, "normal"),
    }


def deeds_on_node(node: Node) -> Deeds:
    """Return what can be done to a node."""
    return {
        "killed": partial(kill, node),
        "frozen": partial(freeze, node),
        "restarted": partial(restart, node),
    }


def deeds_on_clients(clients: Sequence[Client]) -> Deeds:
    """Return what can be done to clients."""
    return {"cut off": partial(cut_off, clients)}


async def kill(process: Process, lasts_s: float) -> None:
    """End a process as a crash would, and start it again."""
    process.kill()
    await asyncio.sleep(lasts_s)
    await process.start()


async def freeze(process: Process, lasts_s: float) -> None:
    """Stop a process, which keeps its connections, and let it go on."""
    process.freeze()
    await asyncio.sleep(lasts_s)
    process.thaw()


async def restart(process: Process, lasts_s: float) -> None:
    """Have a process end by itself, and start it again."""
    await process.stop()
    await asyncio.sleep(lasts_s)
    await process.start()


async def empty(valkey: SocketServer, lasts_s: float) -> None:
    """Have all data deleted, as an operator might by mistake."""
    async with valkey.client() as redis:
        await redis.flushall()


async def drop(valkey: SocketServer, kind: str, lasts_s: float) -> None:
    """Have all connections of a kind closed."""
    async with valkey.client() as redis:
        await redis.client_kill_filter(_type=kind)


async def cut_off(clients: Sequence[Client], lasts_s: float) -> None:
    """Break the connections of some clients."""
    for client in random.Random(lasts_s).sample(clients, k=-(-len(clients) // 3)):
        client.cut_off()
