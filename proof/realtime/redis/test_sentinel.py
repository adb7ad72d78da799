"""Real sentinels: the service follows them to another primary."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from app.realtime.backplane import Subscription

from ..backplane_contract import Inbox
from ..client import START_S
from ..live import wait_until, wait_until_async
from . import servers as running
from .servers import TcpServer
from .test_cluster import reaches
from .test_node import CHANNEL, failure, run_node

pytestmark = pytest.mark.slow

NAME = "main"


class Replica(TcpServer):
    """A server that copies a primary."""

    def __init__(self, directory: Path, primary: TcpServer) -> None:
        super().__init__(directory)
        self.primary = primary

    @property
    def arguments(self) -> list[str]:
        """Return what makes it a replica."""
        return [*super().arguments, "--replicaof", "127.0.0.1", str(self.primary.port)]


class Sentinel(Replica):
    """A sentinel that needs nobody's consent to make a replica the primary."""

    @property
    def arguments(self) -> list[str]:
        """Return what makes it a sentinel."""
        path = self.directory / "sentinel.conf"
        path.write_text(
            f"sentinel monitor {NAME} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {NAME} 2500\n"
            f"sentinel failover-timeout {NAME} 60000\n",
            encoding="utf-8",
        )
        return [str(path), "--sentinel"]


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[TcpServer, Replica, Sentinel]]:
    """Run a primary, its replica, and a sentinel that knows both."""
    async with AsyncExitStack() as stack:
        primary = TcpServer(tmp_path / "primary")
        replica = Replica(tmp_path / "replica", primary)
        sentinel = Sentinel(tmp_path / "sentinel", primary)
        for server in (primary, replica, sentinel):
            stack.push_async_callback(server.stop)
            await server.start()
        # Soon told of the replica; a pause of the machine is none of the clock.
        await sentinel.ask("SENTINEL DEBUG", "info-period", 200, "tilt-trigger", 60_000)

        async def is_complete() -> bool:
            copy = await replica.redis.info("replication")
            known = await sentinel.ask("SENTINEL REPLICAS", NAME)
            return bool(copy["master_link_status"] == "up" and known)

        await wait_until_async(is_complete, START_S)
        yield primary, replica, sentinel


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_the_service_follows_the_sentinels(
    servers: tuple[TcpServer, Replica, Sentinel], silent_port: int
) -> None:
    primary, replica, sentinel = servers
    # One sentinel refuses connections, another one never answers.
    url = f"redis://127.0.0.1:1,127.0.0.1:{silent_port},127.0.0.1:{sentinel.port}/0"
    async with run_node(url, redis_sentinel=NAME) as (node, gaps):
        inbox = Inbox()
        await node.confirm(node.subscribe(Subscription(CHANNEL, inbox.deliver)))
        await wait_until_async(partial(reaches, node, CHANNEL, inbox), START_S)
        await primary.stop()
        await wait_until_async(partial(is_primary, replica), START_S)
        await wait_until_async(partial(reaches, node, CHANNEL, inbox), START_S)
        await wait_until(lambda: node.healthy, START_S)
        assert gaps == ["gap"]
        assert await replica.redis.pubsub_numsub(node.client.name(CHANNEL)) == [
            (node.client.name(CHANNEL).encode(), 1)
        ]


async def test_sentinels_that_refuse_the_password_end_the_service(
    servers: tuple[TcpServer, Replica, Sentinel],
) -> None:
    *_, sentinel = servers
    await sentinel.ask("ACL SETUSER", "default", "resetpass", ">secret")
    url = f"redis://127.0.0.1:{sentinel.port}/0"
    for password in (None, "wrong"):
        failed = await failure(url, redis_sentinel=NAME, redis_sentinel_password=password)
        assert "REDIS_SENTINEL_PASSWORD" in str(failed)


async def is_primary(server: TcpServer) -> bool:
    """Return whether the server has become the primary, at which it drops its clients."""
    try:
        return bool((await server.redis.info("replication"))["role"] == "master")
    except RedisError:
        return False


@pytest.mark.parametrize("stranger", ["silent", "another server"])
async def test_a_server_leaves_a_port_that_another_process_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: str
) -> None:
    first, second = TcpServer(tmp_path / "first"), TcpServer(tmp_path / "second")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(second.stop)
        if stranger == "silent":
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            taken = listener.getsockname()[1]
        else:
            stack.push_async_callback(first.stop)
            await first.start()
            taken = first.port
        free_ports = running._free_ports
        offers = iter([(taken, taken)])
        monkeypatch.setattr(running, "_free_ports", lambda: next(offers, None) or free_ports())
        await second.start()
        assert second.port != taken
        assert await second.redis.ping()
