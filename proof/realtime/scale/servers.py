"""The servers under measurement, and what they have used."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ..redis.servers import TcpServer
from ..redis.valkey_cluster import run_cluster


class Usage(NamedTuple):
    """What servers have used since they started."""

    cpu_us: int
    scripts: int
    received_bytes: int
    sent_bytes: int
    errors: int
    keys: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Servers:
    """One server, or the primaries of a cluster, with the settings that lead to them."""

    primaries: list[TcpServer]
    server_of: Callable[[str], Awaitable[TcpServer]]
    settings: dict[str, object]

    async def usage(self) -> Usage:
        """Return what all of them have used together."""
        usages = []
        for server in self.primaries:
            info = await server.redis.info("everything")
            usage = Usage(
                cpu_us=round(1e6 * (info["used_cpu_user"] + info["used_cpu_sys"])),
                scripts=info.get("cmdstat_evalsha", {"calls": 0})["calls"],
                received_bytes=info["total_net_input_bytes"],
                sent_bytes=info["total_net_output_bytes"],
                errors=info["total_error_replies"],
                keys=await server.redis.dbsize(),
                memory_bytes=info["used_memory"],
            )
            usages.append(usage)
        return Usage(*map(sum, zip(*usages, strict=True)))

    async def version(self) -> str:
        """Return what they run."""
        info = await self.primaries[0].redis.info("server")
        kind = "valkey" if "valkey_version" in info else "redis"
        return f"{kind} {info[f'{kind}_version']}"

    async def empty(self) -> None:
        """Have them forget everything that is stored."""
        for server in self.primaries:
            await server.redis.flushall()

    async def disconnect(self) -> None:
        """Close the connections of all nodes."""
        for server in self.primaries:
            for kind in ("normal", "pubsub"):
                await server.ask("CLIENT KILL TYPE", kind, "SKIPME", "yes")


@asynccontextmanager
async def run_servers(shards: int) -> AsyncIterator[Servers]:
    """Run one server, or a cluster with a replica of each shard."""
    if shards > 1:
        async with run_cluster() as cluster:
            primaries: list[TcpServer] = [*await cluster.primaries()]
            settings = {"redis_url": cluster.url, "redis_cluster": True}
            yield Servers(primaries, cluster.primary_of, settings)
        return
    with TemporaryDirectory() as directory:
        server = TcpServer(Path(directory, "server"))

        async def server_of(name: str) -> TcpServer:
            return server

        await server.start()
        try:
            yield Servers([server], server_of, {"redis_url": server.url})
        finally:
            await server.stop()
