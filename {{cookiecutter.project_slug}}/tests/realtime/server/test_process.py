"""The process ``python -m app``, as in production."""

import asyncio
import json
import os
import re
import signal
# {% if cookiecutter.redis %}
import socket
# {% endif %}
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.realtime.protocol import SERVICE_RESTART
from dev import fresh_secrets

from ..client import START_S, STOP_S, Client, ConnectOptions, connect_options
from ..live import ORIGIN, make_settings, run_service, wait_until
from ..raw_client import raw_client

PROJECT = Path(__file__).parents[3]

LISTENING = r'"port": (\d+).*"listening"'
"""The log line with the port, if the system has chosen it."""


@asynccontextmanager
async def run_process(
    cwd: Path, program: Sequence[str] = ("-m", "tests.realtime.engine"), **environment: str
) -> AsyncIterator[Process]:
    """Run a program, by default the engine alone, in a minimal environment with these variables."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        cwd=cwd,
        env={
            "PYTHONPATH": str(PROJECT),
            "PATH": os.environ["PATH"],
            "ALLOWED_ORIGINS": ORIGIN,
            "CLIENTS_MAY_BROADCAST": "true",
            "SHUTDOWN_GRACE_S": "60",
            **environment,
        },
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def run_server(
    cwd: Path, **environment: str
) -> AsyncIterator[tuple[Process, ConnectOptions]]:
    """Run the engine with a fresh `.env`; yield the process, and options to connect as alice."""
    secrets = fresh_secrets()
    lines = [f"{name}={value}" for name, value in secrets.items()]
    (cwd / ".env").write_text("\n".join([*lines, ""]), encoding="utf-8")
    async with run_process(cwd, PORT="0", **environment) as process:
        port = int((await next_line(process, r"http://127\.0\.0\.1:(\d+)"))[1])
        settings = make_settings(**{name.lower(): value for name, value in secrets.items()})
        yield process, await connect_options(settings, "alice", port=port)


async def next_line(process: Process, pattern: str) -> re.Match[str]:
    """Return the match of the first line on standard error that matches."""
    assert process.stderr is not None
    async with asyncio.timeout(START_S):
        while line := (await process.stderr.readline()).decode():
            if match := re.search(pattern, line):
                return match
    raise EOFError(pattern)


@pytest.mark.hostile(75)
async def test_sigterm_drains_and_the_log_has_no_secrets(tmp_path: Path) -> None:
    async with run_server(tmp_path, LOG_LEVEL="DEBUG") as (process, options):
        client = await Client.open(options)
        assert (await client.ask(type="broadcast", data="a private payload"))["type"] == "ok"
        process.send_signal(signal.SIGTERM)
        assert await client.closed() == SERVICE_RESTART
        assert process.stderr is not None
        async with asyncio.timeout(STOP_S):
            rest = await process.stderr.read()
            assert await process.wait() == 0
        assert b"private" not in rest
        for credential in (urlsplit(options.uri).query, *private_headers(options)):
            assert not credential or credential.encode() not in rest
        entries = [json.loads(line) for line in rest.splitlines()]
        assert "connection closed" in {entry["event"] for entry in entries}


async def test_a_free_port_is_logged_at_every_level(tmp_path: Path) -> None:
    async with run_process(tmp_path, PORT="0", LOG_LEVEL="WARNING", **fresh_secrets()) as process:
        port = int((await next_line(process, LISTENING))[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()


# {% if cookiecutter.redis %}
async def test_in_development_each_line_has_the_port_of_its_node(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with run_process(
            tmp_path, PORT=port, ENVIRONMENT="development", **fresh_secrets()
        ) as process:
            for event in ("Started server process", "address already in use"):
                await next_line(process, rf"{event}.* port={port}$")


# {% endif %}
async def test_a_refused_handshake_is_logged_once(tmp_path: Path) -> None:
    async with run_server(tmp_path, LOG_LEVEL="DEBUG") as (process, options):
        evil = replace(options, headers=options.headers | {"Origin": "https://evil.test"})
        async with raw_client(evil) as client:
            assert (await client.head()).startswith("HTTP/1.1 403 ")
            await client.rest()
        async with raw_client(options, path="/nowhere") as client:
            assert (await client.head()).startswith("HTTP/1.1 404 ")
            await client.rest()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            _, rest = await process.communicate()
    events = [json.loads(line)["event"] for line in rest.splitlines()]
    assert events[: events.index("Shutting down")].count("handshake refused") == 2
    assert not [event for event in events if "rejected" in event or "response sent" in event]


async def test_a_bad_setting_exits_with_one_line_and_status_1(tmp_path: Path) -> None:
    async with run_process(tmp_path, **fresh_secrets() | {"BACKEND_KEY": "short"}) as process:
        async with asyncio.timeout(START_S):
            output, errors = await process.communicate()
        assert process.returncode == 1
        assert output == b""
        assert errors.decode().startswith("error: BACKEND_KEY: has 5 bytes, needs at least 32")
        assert len(errors.splitlines()) == 1


def private_headers(options: ConnectOptions) -> list[str]:
    return [value for name, value in options.headers.items() if name != "Origin"]


async def test_shutdown_closes_every_connection_with_1012() -> None:
    async with run_service() as live:
        clients = [await live.connect("alice") for _ in range(5)]
        live.server.stop.set()
        for client in clients:
            assert await client.closed() == SERVICE_RESTART
        assert live.service.manager.draining
        await wait_until(lambda: len(live.service.manager) == 0)
