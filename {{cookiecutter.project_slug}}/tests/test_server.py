"""The process itself: ``python -m app``, as it runs in production."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from app.protocol import SERVICE_RESTART
from dev import fresh_secrets
from dev.connect import ConnectOptions, connect_options

from .client import DEADLINE_S, Client
from .live import ORIGIN, make_settings, run_service, wait_until

PROJECT = Path(__file__).parent.parent


@contextlib.asynccontextmanager
async def run_process(cwd: Path, **environment: str) -> AsyncIterator[Process]:
    """Run ``python -m app`` with nothing but these variables."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "app"),
        cwd=cwd,
        env={
            "PYTHONPATH": str(PROJECT),
            "PATH": os.environ["PATH"],
            "ALLOWED_ORIGINS": ORIGIN,
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


async def next_line(process: Process, pattern: str) -> re.Match[str]:
    """Return the match of the first line on standard error that matches."""
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        while line := (await process.stderr.readline()).decode():
            if match := re.search(pattern, line):
                return match
    raise EOFError(pattern)


async def test_it_serves_logs_nothing_private_and_drains_on_sigterm(tmp_path: Path) -> None:
    secrets = fresh_secrets()
    lines = [f"{name}={value}" for name, value in secrets.items()]
    (tmp_path / ".env").write_text("\n".join([*lines, ""]), encoding="utf-8")
    async with run_process(tmp_path, PORT="0", LOG_LEVEL="DEBUG") as process:
        port = int((await next_line(process, r"http://127\.0\.0\.1:(\d+)"))[1])
        settings = make_settings(**{name.lower(): value for name, value in secrets.items()})
        options = await connect_options(settings, "alice", port=port)
        client = await Client.open(options)
        assert (await client.ask(type="broadcast", data="a private payload"))["type"] == "ok"
        process.send_signal(signal.SIGTERM)
        assert await client.closed() == SERVICE_RESTART
        assert process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            rest = await process.stderr.read()
            assert await process.wait() in {0, -signal.SIGTERM}
        assert b"private" not in rest
        for credential in (urlsplit(options.uri).query, *private_headers(options)):
            assert not credential or credential.encode() not in rest
        entries = [json.loads(line) for line in rest.splitlines()]
        assert "connection closed" in {entry["event"] for entry in entries}


async def test_it_says_in_one_line_what_is_wrong_and_stops(tmp_path: Path) -> None:
    async with run_process(tmp_path, BACKEND_KEY="short", **sane_but_backend_key()) as process:
        async with asyncio.timeout(DEADLINE_S):
            output, errors = await process.communicate()
        assert process.returncode == 1
        assert output == b""
        assert errors.decode().startswith("error: BACKEND_KEY: has 5 bytes, needs at least 32")
        assert len(errors.splitlines()) == 1


def private_headers(options: ConnectOptions) -> list[str]:
    return [value for name, value in options.headers.items() if name != "Origin"]


def sane_but_backend_key() -> dict[str, str]:
    return {name: value for name, value in fresh_secrets().items() if name != "BACKEND_KEY"}


async def test_at_shutdown_everybody_is_told() -> None:
    async with run_service() as live:
        clients = [await live.connect("alice") for _ in range(5)]
        live.server.stop.set()
        for client in clients:
            assert await client.closed() == SERVICE_RESTART
        assert live.service.manager.draining
        await wait_until(lambda: len(live.service.manager) == 0)
