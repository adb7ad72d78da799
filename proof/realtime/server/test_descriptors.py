"""File descriptors: one address cannot use them up, and the log says when none is left."""

import resource
import signal
import socket
import sys
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from app.realtime.server.process import SPARE_DESCRIPTORS
from dev import fresh_secrets

from ..client import START_S, ConnectOptions
from ..live import ORIGIN, wait_until_async
from ..raw_client import handshake, raw_connection
from .test_connections import LIVEZ, OTHER, only_linux, status
from .test_process import LISTENING, next_line, run_process


@pytest.mark.hostile(87)
@only_linux
async def test_idle_connections_of_one_address_leave_descriptors_to_others(tmp_path: Path) -> None:
    settings = {"PORT": "0", "MAX_CONNECTIONS_PER_ADDRESS": "100", **fresh_secrets()}
    async with (
        run_process(tmp_path, limit_to(256, 256), **settings) as process,
        AsyncExitStack() as stack,
    ):
        port = int((await next_line(process, r"http://127\.0\.0\.1:(\d+)"))[1])
        for _ in range(300):
            idle = await stack.enter_async_context(raw_connection("127.0.0.1", port, source=OTHER))
            idle.send(LIVEZ)
        request = handshake(ConnectOptions(f"ws://127.0.0.1:{port}/ws", {"Origin": ORIGIN}))
        for source in ("127.0.0.1", "127.0.0.3"):
            for data, expected in ((LIVEZ, 200), (request, 101)):
                async with raw_connection("127.0.0.1", port, source=source) as client:
                    client.send(data)
                    assert await status(client) == expected


@pytest.mark.hostile(85)
@only_linux
async def test_without_descriptors_the_log_says_so_once_and_the_service_recovers(
    tmp_path: Path,
) -> None:
    settings = {"PORT": "0", **fresh_secrets()}
    async with run_process(tmp_path, limit_to(100, 100), **settings) as process:
        await next_line(process, "too few file descriptors")
        port = int((await next_line(process, r"http://127\.0\.0\.1:(\d+)"))[1])
        with ExitStack() as crowd:
            for _ in range(200):
                crowd.enter_context(socket.create_connection(("127.0.0.1", port), START_S))
            line = await next_line(process, "new clients are cut off")
            assert "Too many open files" in line.string
        await wait_until_async(lambda: answers(port))
        process.send_signal(signal.SIGTERM)
        _, rest = await process.communicate()
    assert b"cut off" not in rest
    assert b"accept" not in rest


async def answers(port: int) -> bool:
    """Return whether the service answers."""
    async with raw_connection("127.0.0.1", port) as client:
        client.send(LIVEZ)
        try:
            return await status(client) == 200
        except (EOFError, OSError):
            return False


def limit_to(soft: int, hard: int) -> list[str]:
    """Return a program that runs the engine with these limits of file descriptors."""
    script = (
        "import resource, runpy;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "runpy.run_module('tests.realtime.engine', run_name='__main__')"
    )
    return ["-c", script]


async def test_descriptors_for_all_connections_are_asked_for(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    settings = {"PORT": "0", "MAX_CONNECTIONS": "50", **fresh_secrets()}
    async with run_process(tmp_path, limit_to(256, hard), **settings) as process:
        await next_line(process, LISTENING)
        if sys.platform == "linux":
            soft, _ = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            assert soft == 50 + SPARE_DESCRIPTORS


async def test_too_few_descriptors_are_a_warning(tmp_path: Path) -> None:
    settings = {"PORT": "0", "MAX_CONNECTIONS": "9000", **fresh_secrets()}
    async with run_process(tmp_path, limit_to(256, 5_000), **settings) as process:
        line = (await next_line(process, "too few file descriptors")).string
        assert '"needed": 10000' in line
        await next_line(process, LISTENING)
        if sys.platform == "linux":
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (5_000, 5_000)
