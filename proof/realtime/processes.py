"""Server processes that the proof starts, kills, freezes and stops."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from app.realtime import RealtimeSettings
from dev import fresh_secrets

from .client import START_S

PROJECT = Path(__file__).parents[2]
POLL_S = 0.05
LAST_LINES = 5
LISTENING = re.compile(rb'"port": (\d+).*"listening"')

LOAD_SETTINGS = {
    "ALLOWED_ORIGINS": "http://localhost",
    "LOG_LEVEL": "WARNING",
    "CLIENTS_MAY_BROADCAST": "true",
    "MAX_HANDSHAKES_PER_S": "1000000",
    "MAX_HANDSHAKES_PER_S_PER_ADDRESS": "1000000",
    "MAX_CONNECTIONS": "10000",
    "MAX_CONNECTIONS_PER_ADDRESS": "10000",
    "MAX_CONNECTIONS_PER_USER": "10000",
    "MAX_MESSAGES_PER_S": "1000000",
    "MAX_BYTES_PER_S": "1000000000",
    "MAX_MESSAGES_PER_S_PER_USER": "1000000",
    "MAX_BYTES_PER_S_PER_USER": "1000000000",
    "MAX_BYTES_PER_S_PER_TARGET": "1000000000",
}
"""Limits that no client of the proof exceeds."""


class Failure(Exception):
    """A process failed, or the service in it."""


class Process:
    """A process that can be killed, frozen, stopped and restarted."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0
        self._may_end = False

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            Failure: it exits, or is not ready in time.
        """
        self.launch()
        await self.wait_until_ready()

    async def wait_until_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            Failure: it exits, or is not ready in time.
        """
        give_up_at = monotonic() + START_S
        while not await self.is_ready():
            self.check()
            if monotonic() > give_up_at:
                raise self.failure("was not ready in time")
            await asyncio.sleep(POLL_S)

    def launch(self) -> None:
        """Start it without waiting."""
        raise NotImplementedError

    async def is_ready(self) -> bool:
        """Return whether it serves requests."""
        raise NotImplementedError

    def check(self) -> None:
        """Check that it has not exited by itself.

        Raises:
            Failure: it has.
        """
        if self._process is not None and not self._may_end and self._process.poll() is not None:
            raise self.failure(f"exited unexpectedly with status {self._process.returncode}")

    def kill(self) -> None:
        """Send SIGKILL, and wait for the exit."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> None:
        """Send SIGTERM, and wait for the exit.

        Raises:
            Failure: it does not exit in time.
        """
        if self._process is not None:
            self._may_end = True
            self._process.terminate()
            give_up_at = monotonic() + START_S
            while self._process.poll() is None:
                if monotonic() > give_up_at:
                    raise self.failure("did not stop in time")
                await asyncio.sleep(POLL_S)
            self._process = None

    def freeze(self) -> None:
        """Suspend it; its connections stay open."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def failure(self, reason: str) -> Failure:
        """Return a failure with the reason and the last lines of the log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return Failure("\n".join([f"{self.name}: {reason}", *lines[-LAST_LINES:]]))

    def output(self) -> bytes:
        """Return the output since the last start."""
        return self._log.read_bytes()[self._log_begin :]

    def _run(
        self, command: Sequence[str | Path], environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        self._may_end = False
        with self._log.open("ab") as log:
            self._log_begin = log.tell()
            process = self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C interrupts only this program, which ends its processes
            )
        return process


class Node(Process):
    """A node that runs only the engine; the system picks another port at each start."""

    def __init__(self, name: str, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, directory)
        self._environment = {**environment, "PORT": "0"}

    @property
    def port(self) -> int:
        """The port on which it listens, 0 while it does not: its old port may be in use."""
        logged = LISTENING.search(self.output()) if self._process is not None else None
        return int(logged[1]) if logged else 0

    def launch(self) -> None:
        """Start it."""
        self._run([sys.executable, "-m", "tests.realtime.engine"], self._environment)

    async def is_ready(self) -> bool:
        """Return whether `/readyz` answers with 200."""
        port = self.port
        if not port:
            return False
        try:
            async with asyncio.timeout(START_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                    status_line = await reader.readline()
                finally:
                    writer.close()
        except OSError:
            return False
        return b" 200 " in status_line


def engine_environment(**settings: str) -> tuple[dict[str, str], RealtimeSettings]:
    """Return the environment of a `Node` with fresh secrets, and its settings."""
    settings = LOAD_SETTINGS | fresh_secrets() | settings
    fields: dict[str, Any] = {name.lower(): value for name, value in settings.items()}
    read = RealtimeSettings(_env_file=None, **fields)
    return settings | {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}, read
