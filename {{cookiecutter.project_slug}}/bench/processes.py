"""The servers: processes of their own, which are ended whatever happens."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pydantic import ValidationError

from app.realtime import RealtimeSettings
from dev import fresh_secrets
from dev.connect import ConnectOptions, connect_options

from .clients import Failure

PROJECT = Path(__file__).parent.parent
BARE_LOOP = Path(__file__).with_name("bare_loop.py")
START_S = 20.0
LAST_LINES = 5
LISTENING = re.compile(rb"listening on port (\d+)\D")

CORES: list[int] = []
if sys.platform == "linux":
    CORES = sorted(os.sched_getaffinity(0))
# Of many cores, the first and the last are the least likely to be two halves of one.
SERVER, CLIENT = 0, -1

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
}
"""What bears the load. Add settings that your service needs to start: it reads no `.env` here."""


class Server(NamedTuple):
    """A running server: the service, or without settings the bare loop."""

    name: str
    port: int
    pid: int
    log: Path
    settings: RealtimeSettings | None = None

    def connect_options(self, count: int) -> list[ConnectOptions]:
        """Return options for so many connections, all of one user."""
        settings = self.settings
        if settings is None:
            return [ConnectOptions(f"ws://127.0.0.1:{self.port}/ws", {}, [])] * count

        async def collect() -> list[ConnectOptions]:
            return [await connect_options(settings, "alice", port=self.port) for _ in range(count)]

        return asyncio.run(collect())

    def failure(self, reason: object) -> Failure:
        """Return a failure that ends with the last lines of the server's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return Failure("\n".join([f"{self.name}: {reason}", *lines[-LAST_LINES:]]))


def service_environment(**settings: str) -> tuple[dict[str, str], RealtimeSettings]:
    """Return an environment for ``python -m app`` with fresh secrets, and the settings in it.

    Raises:
        Failure: the service needs other settings, too.

    """
    settings = LOAD_SETTINGS | fresh_secrets() | settings
    fields: dict[str, Any] = {name.lower(): value for name, value in settings.items()}
    try:
        read = RealtimeSettings(_env_file=None, **fields)
    except ValidationError as failure:
        names = ", ".join(str(error["loc"][0]).upper() for error in failure.errors())
        msg = f"{names}: missing or wrong in LOAD_SETTINGS of bench/processes.py"
        raise Failure(msg) from None
    return settings | {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}, read


def run_service() -> AbstractContextManager[Server]:
    """Run ``python -m app``.

    Raises:
        Failure: it needs other settings, too.

    """
    environment, settings = service_environment(PORT="0")
    return running("the service", [sys.executable, "-m", "app"], environment, settings)


def run_bare_loop() -> AbstractContextManager[Server]:
    """Run the bare loop."""
    return running("the bare loop", [sys.executable, str(BARE_LOOP)], {})


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    environment: dict[str, str],
    settings: RealtimeSettings | None = None,
) -> Iterator[Server]:
    """Run a server with nothing but this environment, away from the client's processor core.

    The system chooses its port, and the server's log tells it.

    Raises:
        Failure: it does not start.

    """
    # It works in a directory of its own, since there is a `.env` in the project's.
    with TemporaryDirectory() as directory, Path(directory, "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the commands are this module's own
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the client, which then ends its servers
        )
        try:
            pin(process.pid, SERVER)
            server = Server(name, 0, process.pid, Path(log.name), settings)
            port = _wait_for_port(process, server.log)
            if port is None:
                raise server.failure("does not start")
            yield server._replace(port=port)
        finally:
            process.kill()
            process.wait()


def _wait_for_port(process: "subprocess.Popen[bytes]", log: Path) -> int | None:
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at:
        has_ended = process.poll() is not None
        port = port_in(log.read_bytes())
        if port is not None or has_ended:
            return port
        time.sleep(0.02)
    return None


def port_in(log: bytes) -> int | None:
    """Return the port at which a server's log says that it listens, null if it does not."""
    told = LISTENING.search(log)
    return int(told[1]) if told else None


def pin(pid: int, which: int) -> bool:
    """Keep a process, 0 for this one, on one of the `CORES`; return whether that could be done."""
    if sys.platform == "linux" and len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[which]})
        return True
    return False
