"""What Redis pays for a publication, a join and a renewal: ``make scale PROJECT=path``.

Light nodes, which are the engine without sockets, share one server or a cluster of three shards.
One member on each node joins every room, then one node publishes to all rooms in turn. The CPU is
the servers' own (`INFO cpu`) for each operation; so are bytes (`INFO stats`), keys and memory.
"""

import argparse
import asyncio
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import structlog
from redis.asyncio import Redis

from .engine import make_app
from .live import make_settings
from .recording_wire import open_connection
from .redis.servers import SocketServer
from .redis.valkey_cluster import SHARDS, run_cluster

ENDLESS_S = 3_600.0
"""The lease while other operations are measured, so that there are no renewals."""

QUIET = {
    "redis_timeout_s": 30.0,
    "redis_ping_interval_s": ENDLESS_S,
    "redis_probe_interval_s": ENDLESS_S,
}
"""Settings without what nodes do all the time; and one process with all of them may be late."""

WINDOW = 64
"""Publications in flight."""

DATA = "x" * 100

Row = list[str]
Do = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Usage:
    """What servers have used since they started."""

    cpu_us: float
    scripts: int
    received_bytes: int
    sent_bytes: int
    keys: int
    memory_bytes: int


async def usage(servers: list[Redis]) -> Usage:
    """Return what all servers have used together."""
    totals = [0.0] * 6
    for server in servers:
        info = await server.info("everything")
        values = (
            1e6 * (info["used_cpu_user"] + info["used_cpu_sys"]),
            info.get("cmdstat_evalsha", {"calls": 0})["calls"],
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
            await server.dbsize(),
            info["used_memory"],
        )
        totals = [total + value for total, value in zip(totals, values, strict=True)]
    return Usage(totals[0], *map(int, totals[1:]))


@asynccontextmanager
async def run_servers(shards: int) -> AsyncIterator[tuple[list[Redis], dict[str, object]]]:
    """Run one server or a cluster; yield clients of all, and settings that lead to them."""
    if shards > 1:
        async with run_cluster() as cluster:
            primaries = [server.redis for server in await cluster.primaries()]
            yield primaries, {"redis_url": cluster.url, "redis_cluster": True}
        return
    with TemporaryDirectory() as directory:
        server = SocketServer(Path(directory))
        await server.start()
        try:
            async with server.client() as redis:
                yield [redis], {"redis_url": server.url}
        finally:
            await server.stop()


async def in_windows(start: Do, count: int) -> None:
    """Run operations, so many at the same time."""
    for first in range(0, count, WINDOW):
        await asyncio.gather(*map(start, range(first, min(first + WINDOW, count))))


class Trial:
    """Nodes with members, on servers whose usage is measured."""

    def __init__(self, servers: list[Redis], nodes: int, rooms: int, lease_s: float) -> None:
        self._servers = servers
        self._lease_s = lease_s
        self._nodes = nodes
        self._rooms = [f"room-{number}" for number in range(rooms)]

    async def run(self, settings: dict[str, object], publications: int) -> list[Row]:
        """Measure each kind of operation; return a row for each."""
        joins = self._nodes * len(self._rooms)
        async with self._running(settings | {"presence_lease_s": ENDLESS_S}) as (join, publish):
            rows = [await self._measure("join", joins, in_windows(join, joins))]
            work = in_windows(publish, publications)
            rows.append(await self._measure("publication", publications, work))
        async with self._running(settings | {"presence_lease_s": self._lease_s}) as (join, _):
            await in_windows(join, joins)
            await asyncio.sleep(self._lease_s / 2)  # until the first writes of presence are done
            rows.append(await self._measure("renewal", None, asyncio.sleep(self._lease_s)))
        return rows

    @asynccontextmanager
    async def _running(self, settings: dict[str, object]) -> AsyncIterator[tuple[Do, Do]]:
        """Run the nodes; yield what joins and what publishes, by a number."""
        for server in self._servers:
            await server.flushall()
        settings |= {"max_rooms_per_connection": len(self._rooms), **QUIET}
        async with AsyncExitStack() as stack:
            services = []
            for _ in range(self._nodes):
                app = make_app(make_settings(**settings))
                await stack.enter_async_context(app.router.lifespan_context(app))
                services.append(app.service)
            while not all(service.backplane.healthy for service in services):
                await asyncio.sleep(0.05)
            members = [
                open_connection(user=f"user-{number}", delivery=service.delivery)
                for number, service in enumerate(services)
            ]

            async def join(number: int) -> None:
                node, room = number % self._nodes, self._rooms[number // self._nodes]
                await services[node].rooms.join(members[node], room)

            async def publish(number: int) -> None:
                room = self._rooms[number % len(self._rooms)]
                await services[0].rooms.publish(room, DATA)

            yield join, publish
            for service, member in zip(services, members, strict=True):
                service.rooms.leave_all(member)

    async def _measure(self, what: str, count: int | None, work: Awaitable[None]) -> Row:
        """Measure so many operations; without a number, those that run scripts meanwhile."""
        before, begin = await usage(self._servers), monotonic()
        await work
        after, seconds = await usage(self._servers), monotonic() - begin
        count = count or after.scripts - before.scripts
        cpu_us = (after.cpu_us - before.cpu_us) / count
        per_delivery = f"{cpu_us / self._nodes:.1f}" if what == "publication" else ""
        return [
            f"{len(self._servers)}",
            f"{self._nodes}",
            f"{len(self._rooms)}",
            what,
            f"{count:,}",
            f"{cpu_us:.1f}",
            per_delivery,
            f"{(after.received_bytes - before.received_bytes) / count:,.0f}",
            f"{(after.sent_bytes - before.sent_bytes) / count:,.0f}",
            f"{after.keys:,}",
            f"{after.memory_bytes / 2**20:.1f}",
            f"{100 * (after.cpu_us - before.cpu_us) / 1e6 / seconds:.0f}",
        ]


HEAD = (
    "shards",
    "nodes",
    "rooms",
    "operation",
    "count",
    "CPU µs",
    "per delivery",
    "bytes in",
    "bytes out",
    "keys",
    "MiB",
    "% of a core",
)


async def measure(options: argparse.Namespace) -> None:
    """Print a table of all trials, row by row as they are done."""
    print("| " + " | ".join(HEAD) + " |\n| " + " | ".join(["---"] * len(HEAD)) + " |")
    for shards, nodes in itertools.product(options.shards, options.nodes):
        print(f"{nodes} nodes, {shards} shards ...", file=sys.stderr, flush=True)
        async with run_servers(shards) as (servers, settings):
            trial = Trial(servers, nodes, options.rooms, options.lease)
            for row in await trial.run(settings, options.publications):
                print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="make scale ARGS=...", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 10, 50])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, SHARDS], choices=[1, SHARDS])
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--publications", type=int, default=2_000)
    parser.add_argument("--lease", type=float, default=8.0, help="seconds, to count renewals")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
