"""What Redis pays for each operation, and how much it takes: ``make scale PROJECT=path``.

Light nodes, which are the engine without sockets, share one server or a cluster of three shards.
CPU is the servers' own (`INFO cpu`) for each operation; so are bytes (`INFO stats`) and keys. For
the rows ``saturated``, raw connections repeat a node's own commands without waiting for replies.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable
from time import monotonic
from typing import NamedTuple

import structlog

from ..redis.valkey_cluster import SHARDS
from .flood import Flood, encode
from .nodes import ENDLESS_S, POLL_S, run_nodes
from .servers import Servers, Usage, run_servers

HEAD = """
| shards | nodes | rooms | each | operation | count | CPU µs | bytes in | bytes out | keys | MiB \
| per second | % of a core |
|"""


class Size(NamedTuple):
    """Numbers of nodes, of rooms, and of what there is in each room or command."""

    nodes: int
    rooms: int
    each: int


OPERATIONS = "2x100x1 10x100x1 50x100x1 10x10x1 10x1000x1 10x10x10 10x10x100 10x1x1000"
FLOODS = "2x100x1 10x100x1 50x100x1 2x1x1 10x1x1 50x1x1 2x1x16 10x1x16 50x1x16"


class Trial:
    """Measures what servers use, and prints a row for each operation."""

    def __init__(self, servers: Servers, options: argparse.Namespace) -> None:
        self._servers = servers
        self._options = options
        self._idle_us_per_s = 0.0

    async def rest(self) -> float:
        """Return how many µs per second the servers use by themselves; rows are without them."""
        before = await self._servers.usage()
        await asyncio.sleep(self._options.seconds)
        used_us = (await self._servers.usage()).cpu_us - before.cpu_us
        self._idle_us_per_s = used_us / self._options.seconds
        return self._idle_us_per_s

    async def operations(self, size: Size) -> None:
        """Measure each kind of operation, with so many members of each room on each node."""
        count, lease_s = self._options.publications, self._options.lease
        joins = size.nodes * size.rooms * size.each
        await self._servers.empty()
        async with run_nodes(self._servers.settings, *size, ENDLESS_S) as nodes:
            await self._measure(size, "join", self._settled(nodes.join()), joins)
            await self._measure(size, "publication", nodes.publish(count), count)
            await self._measure(size, "presence", nodes.ask(count))
            await self._measure(size, "recovery", self._settled(self._lose(size)), joins)
        await self._servers.empty()
        async with run_nodes(self._servers.settings, *size, lease_s) as nodes:
            await nodes.join()
            await nodes.ask(size.rooms * size.nodes)  # answered when the joins are written
            await nodes.publish(size.rooms)  # so that positions are not renewed for an hour
            await self._measure(size, "renewal", asyncio.sleep(lease_s))

    async def saturation(self, size: Size) -> None:
        """Measure how many messages servers take, with so many in each command."""
        await self._servers.empty()
        async with run_nodes(self._servers.settings, 1, size.rooms, 1, ENDLESS_S) as publisher:
            publications = await publisher.publications(size.each)
        commands: defaultdict[int, bytes] = defaultdict(bytes)
        subscriptions: defaultdict[int, bytes] = defaultdict(bytes)
        for channel, sent in publications.items():
            port = (await self._servers.server_of(channel)).port
            commands[port] += encode(sent)
            is_sharded = len(self._servers.primaries) > 1
            subscriptions[port] += encode([["SSUBSCRIBE" if is_sharded else "SUBSCRIBE", channel]])
        flood = Flood(commands, subscriptions, readers=size.nodes)
        work = asyncio.to_thread(flood.run, self._options.seconds)
        await self._measure(size, "saturated", work, messages=size.each)

    async def _lose(self, size: Size) -> None:
        """Have the servers lose everything, and wait until the nodes have written it again."""
        await self._servers.empty()
        await self._servers.disconnect()
        # Of each room: its position, its users, its nodes, and the users of each node.
        while (await self._servers.usage()).keys < size.rooms * (3 + size.nodes):
            await asyncio.sleep(POLL_S)

    async def _settled(self, work: Awaitable[None]) -> None:
        """Wait for work, and for the scripts that it has started."""
        await work
        scripts = None
        while (now := (await self._servers.usage()).scripts) != scripts:
            scripts = now
            await asyncio.sleep(POLL_S)

    async def _measure(
        self, size: Size, what: str, work: Awaitable[None], count: int = 0, messages: int = 1
    ) -> None:
        """Print what each operation has used; without a count, they are the scripts that ran."""
        trial = [str(number) for number in (len(self._servers.primaries), *size)] + [what]
        print(" ".join(trial), "...", file=sys.stderr, flush=True)
        before, begin = await self._servers.usage(), monotonic()
        await work
        after, seconds = await self._servers.usage(), monotonic() - begin
        used = Usage(*(new - old for old, new in zip(before, after, strict=True)))
        is_full = what == "saturated"
        if is_full and used.errors:
            msg = f"the servers refused {used.errors} commands"
            raise RuntimeError(msg)
        count = count or used.scripts * messages
        cpu_us = used.cpu_us - self._idle_us_per_s * seconds
        row = (
            *trial,
            f"{count:,}",
            f"{cpu_us / count:.2f}",
            f"{used.received_bytes / count:,.0f}",
            f"{used.sent_bytes / count:,.0f}",
            f"{after.keys:,}",
            f"{after.memory_bytes / 2**20:.1f}",
            f"{count / seconds:,.0f}" if is_full else "",
            f"{used.cpu_us / 1e4 / seconds:.0f}" if is_full else "",
        )
        print("| " + " | ".join(row) + " |", flush=True)


async def measure(options: argparse.Namespace) -> None:
    """Print a table for each number of shards, row by row as they are done."""
    for shards in options.shards:
        print(f"starting {shards} shards ...", file=sys.stderr, flush=True)
        async with run_servers(shards) as servers:
            trial = Trial(servers, options)
            idle = f"idle: {await trial.rest():,.0f} µs of CPU per second"
            print(f"{await servers.version()}, {idle}\n{HEAD}{13 * ' --- |'}", flush=True)
            for size in options.operations:
                await trial.operations(size)
            for size in options.floods:
                await trial.saturation(size)


def sizes(text: str) -> list[Size]:
    """Return the sizes that are written like 2x100x1, separated by spaces."""
    return [Size(*map(int, size.split("x"))) for size in text.split()]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="make scale ARGS=...", description=__doc__)
    add = parser.add_argument
    add("--shards", type=int, nargs="+", default=[1, SHARDS], choices=[1, SHARDS])
    add("--operations", type=sizes, default=OPERATIONS, help="NODESxROOMSxMEMBERS, of each room")
    add("--floods", type=sizes, default=FLOODS, help="NODESxROOMSxMESSAGES, in each command")
    add("--publications", type=int, default=2_000, help="and requests for presence")
    add("--lease", type=float, default=8.0, help="seconds, in which renewals are counted")
    add("--seconds", type=float, default=3.0, help="length of each flood")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers end with this process
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
