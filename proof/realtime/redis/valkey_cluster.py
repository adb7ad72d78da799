"""A real cluster for tests: three primaries, each with a replica, on ports of this machine."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.crc import key_slot
from redis.exceptions import RedisError

from .servers import TcpServer

SHARDS = 3
SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000
"""How long a primary may be silent before its replica takes over, if a test waits for that."""

PATIENT_MS = 15_000
"""The same for other tests, in which the machine may pause."""

START_S = 30.0


class Server(TcpServer):
    """One server of the cluster."""

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of a server in a cluster."""
        return [
            *super().arguments,
            *("--cluster-enabled", "yes"),
            *("--cluster-port", str(self.bus_port)),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
        ]

    async def describe(self) -> dict[str, Any]:
        """Return the server's own entry in `CLUSTER NODES`, empty if it is down."""
        try:
            nodes = await self.redis.cluster("NODES")
        except (RedisError, OSError):
            return {}
        return next(node for node in nodes.values() if "myself" in node["flags"])

    async def is_primary(self) -> bool:
        """Return whether it is a primary now."""
        return "master" in (await self.describe()).get("flags", "")

    async def serves(self) -> bool:
        """Return whether the cluster is complete for it, and it replicates or is replicated."""
        try:
            if (await self.redis.cluster("INFO"))["cluster_state"] != "ok":
                return False
            replication = await self.redis.info("replication")
        except (RedisError, OSError):
            return False
        if replication["role"] == "master":
            return bool(replication["connected_slaves"])
        return bool(replication["master_link_status"] == "up")


class Cluster:
    """The servers of a cluster."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        """Return where one of the servers listens."""
        return self.servers[-1].url

    async def form(self) -> None:
        """Make a cluster of the servers."""
        first, *others = self.servers
        async with asyncio.timeout(START_S):
            for server in self.servers:
                await server.start()
            for other in others:
                await first.ask("CLUSTER MEET", "127.0.0.1", other.port, other.bus_port)
            for number, primary in enumerate(self.servers[:SHARDS]):
                begin, end = SLOTS * number // SHARDS, SLOTS * (number + 1) // SHARDS - 1
                await primary.ask("CLUSTER ADDSLOTSRANGE", begin, end)
            for primary, replica in zip(self.servers[:SHARDS], self.servers[SHARDS:], strict=True):
                await self._replicate(primary, replica)
            await self.wait_until_it_serves()

    async def wait_until_it_serves(self) -> None:
        """Wait until the cluster is complete for every server."""
        async with asyncio.timeout(START_S):
            for server in self.servers:
                while not await server.serves():
                    await asyncio.sleep(0.02)

    async def _replicate(self, primary: Server, replica: Server) -> None:
        node_id = await primary.ask("CLUSTER MYID")
        while True:
            with contextlib.suppress(RedisError):  # it has not heard of the primary yet
                await replica.ask("CLUSTER REPLICATE", node_id)
                return
            await asyncio.sleep(0.02)

    async def primary_of(self, name: str) -> Server:
        """Return the primary of a key or channel."""
        slot = key_slot(name.encode())
        for server in self.servers:
            for begin, end in (await server.describe()).get("slots", []):
                if int(begin) <= slot <= int(end):
                    return server
        raise LookupError(name)

    async def replica_of(self, primary: Server) -> Server:
        """Return the replica of a primary."""
        node_id = (await primary.describe())["node_id"]
        for server in self.servers:
            if (await server.describe()).get("master_id") == node_id:
                return server
        raise LookupError(primary.port)

    async def primaries(self) -> list[Server]:
        """Return the servers that are primaries now."""
        return [server for server in self.servers if await server.is_primary()]

    async def empty(self) -> None:
        """Delete all data."""
        for server in await self.primaries():
            await server.redis.flushall()

    async def move_slot(self, name: str, old: Server, new: Server) -> None:
        """Give an empty slot to another primary."""
        slot = key_slot(name.encode())
        node_id = (await new.describe())["node_id"]
        for server in (new, old, *await self.primaries()):
            await server.ask("CLUSTER SETSLOT", slot, "NODE", node_id)


@asynccontextmanager
async def run_cluster(node_timeout_ms: int = PATIENT_MS) -> AsyncIterator[Cluster]:
    """Run a cluster for the length of a test or of several."""
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster([Server(Path(directory, str(n))) for n in range(2 * SHARDS)])
        try:
            await cluster.form()
            for server in cluster.servers:
                await server.redis.config_set("cluster-node-timeout", node_timeout_ms)
            await cluster.wait_until_it_serves()
            yield cluster
        finally:
            for server in cluster.servers:
                await server.stop()
