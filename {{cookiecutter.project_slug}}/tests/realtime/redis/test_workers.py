"""Several processes on one port, started by one parent."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app.realtime import RealtimeSettings
from app.realtime.protocol import SERVICE_RESTART
from dev import fresh_secrets

from ..client import START_S, STOP_S, Client, connect_options
from ..live import NO_TLS, make_settings
from ..server.test_process import LISTENING, next_line, run_process
from .valkey import Valkey

MAX_CLIENTS = 50
"""Almost certainly enough for each of two processes to get one."""


class Node:
    """A running parent with its processes."""

    def __init__(self, process: Process, settings: RealtimeSettings, port: int) -> None:
        self.process = process
        self.settings = settings
        self.port = port
        self.pids: dict[int, int] = {}
        self.own_ports: dict[int, int] = {}

    async def note_start(self) -> None:
        """Read from the log that a worker has started, and wait until it is ready."""
        line = json.loads((await next_line(self.process, ".*worker started.*"))[0])
        number = line["worker"]
        self.pids[number], (_, self.own_ports[number]) = line["pid"], line["ports"]
        async with asyncio.timeout(START_S):
            while not await self.is_ready(number):
                await asyncio.sleep(0.05)

    async def get(self, port: int, path: str) -> httpx.Response:
        """Send a GET request with the key for metrics."""
        assert self.settings.metrics_key is not None
        key = {"Authorization": f"Bearer {self.settings.metrics_key.get_secret_value()}"}
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=START_S) as http:
            return await http.get(f"http://127.0.0.1:{port}{path}", headers=key)

    async def is_ready(self, number: int) -> bool:
        """Return whether a worker says that it is ready."""
        with contextlib.suppress(httpx.TransportError):
            return (await self.get(self.own_ports[number], "/readyz")).status_code == 200
        return False

    async def connections(self, number: int) -> int:
        """Return how many connections a worker has."""
        text = (await self.get(self.own_ports[number], "/metrics")).text
        return int(float(text.partition("\nws_connections ")[2].partition("\n")[0]))

    async def connect(self) -> Client:
        """Connect to whichever process gets the connection."""
        return await Client.open(await connect_options(self.settings, "alice", port=self.port))

    async def check_drained(self, clients: list[Client]) -> None:
        """Check that all clients are told of the restart, and that all processes end."""
        for client in clients:
            assert await client.closed() == SERVICE_RESTART
        async with asyncio.timeout(STOP_S):
            await self.process.communicate()
        assert self.process.returncode == 0

    async def connect_to_each(self) -> list[Client]:
        """Connect until each process has a connection."""
        clients: list[Client] = []
        while not all([await self.connections(number) for number in self.pids]):
            assert len(clients) < MAX_CLIENTS
            clients.append(await self.connect())
        return clients


@asynccontextmanager
async def run_parent(cwd: Path, url: str, **environment: str) -> AsyncIterator[Process]:
    """Run two processes and their parent, with a fresh `.env`."""
    values = {**fresh_secrets(), "METRICS_KEY": secrets.token_urlsafe(32)}
    lines = [f"{name}={value}" for name, value in values.items()]
    (cwd / ".env").write_text("\n".join([*lines, ""]), encoding="utf-8")
    more = {"PORT": "0", "MAX_CONNECTIONS_PER_USER": "100", "REDIS_TIMEOUT_S": "5", **environment}
    async with run_process(cwd, WORKERS="2", REDIS_URL=url, **more) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                async with asyncio.timeout(START_S):
                    await process.communicate()


@asynccontextmanager
async def run_node(cwd: Path, url: str) -> AsyncIterator[Node]:
    """Run two processes that are ready."""
    async with run_parent(cwd, url) as process:
        port = int((await next_line(process, LISTENING))[1])
        lines = (cwd / ".env").read_text(encoding="utf-8").splitlines()
        values: dict[str, Any] = dict(line.split("=", 1) for line in lines)
        settings = make_settings(**{name.lower(): value for name, value in values.items()})
        node = Node(process, settings, port)
        await node.note_start()
        await node.note_start()
        yield node


async def test_processes_share_clients_and_messages_and_drain_as_one(
    shared_valkey: Valkey, tmp_path: Path
) -> None:
    async with run_node(tmp_path, shared_valkey.url) as node:
        clients = await node.connect_to_each()
        assert (await node.get(node.port, "/readyz")).status_code == 200
        assert (await node.get(node.port, "/metrics")).status_code == 421
        assert sum([await node.connections(number) for number in node.pids]) == len(clients)
        await clients[0].ask(type="broadcast", data="to every process", echo=True)
        for client in clients:
            assert (await client.receive("message"))["data"] == "to every process"
        node.process.send_signal(signal.SIGTERM)
        await node.check_drained(clients)


async def test_a_killed_process_starts_again_and_all_stop_with_their_parent(
    shared_valkey: Valkey, tmp_path: Path
) -> None:
    async with run_node(tmp_path, shared_valkey.url) as node:
        await node.connect_to_each()
        os.kill(node.pids[1], signal.SIGKILL)
        await next_line(node.process, '"signal": 9, .*"worker ended"')
        await node.note_start()
        clients = await node.connect_to_each()
        node.process.kill()
        for client in clients:
            assert await client.closed() == SERVICE_RESTART
