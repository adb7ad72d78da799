"""Valkey as a process of the proof: on a socket for chaos, on ports for sentinels and clusters."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..client import DEADLINE_S, START_S
from ..processes import Process
from .valkey import answers, server_path

ASK_AGAIN_S = 1.0
IN_MEMORY = ("--save", "", "--appendonly", "no")


class SocketServer(Process):
    """A server on a socket of the file system. It forgets everything when it ends."""

    def __init__(self, directory: Path) -> None:
        super().__init__("redis", directory)
        self._socket = directory / "redis.sock"
        self.url = f"unix://{self._socket}"

    def launch(self) -> None:
        """Start it, where it was before."""
        self._run([server_path(), "--port", "0", "--unixsocket", self._socket, *IN_MEMORY], {})

    async def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            async with self.client() as redis:
                return bool(await redis.ping())
        except (RedisError, OSError):
            return False

    def client(self) -> Redis:
        """Return a client for commands of an operator."""
        return Redis.from_url(self.url, socket_timeout=START_S)


class TcpServer(Process):
    """A server on ports of this machine, with any other arguments."""

    port: int
    bus_port: int
    redis: Redis

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        super().__init__("valkey", directory)

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def arguments(self) -> list[str]:
        """Return what it is started with, besides the port."""
        return [
            *IN_MEMORY,
            *("--repl-diskless-sync-delay", "0"),
            *("--dir", str(self.directory)),
        ]

    async def start(self) -> None:
        """Start it, on other ports if somebody else has taken these meanwhile.

        Valkey neither lets the system choose its ports nor takes a socket that is open already.
        """
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self.port, self.bus_port = _free_ports()
                self.redis = Redis(host="127.0.0.1", port=self.port, retry=Retry(NoBackoff(), 0))
                address = ("--bind", "127.0.0.1", "--port", str(self.port))
                process = self._run([server_path(), *self.arguments, *address], {})
                while process.poll() is None:
                    # Another process with the same port may not answer: ask again.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ASK_AGAIN_S):
                            if await answers(self.redis, process.pid):
                                return
                            await asyncio.sleep(0.02)
                await self.redis.aclose()

    async def ask(self, *command: object) -> Any:
        """Run a command."""
        return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        """End it as a crash would, if it runs."""
        if self._process is not None:
            self.kill()
            await self.redis.aclose()


def _free_ports() -> tuple[int, int]:
    """Return two free ports, which another process may take at any time."""
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        return first.getsockname()[1], second.getsockname()[1]
