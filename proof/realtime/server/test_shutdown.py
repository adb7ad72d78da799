"""Shutdown: graceful, and within its deadline whatever clients, tasks and pipes do."""

import asyncio
import inspect
import logging
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket
from structlog.testing import capture_logs

from app.realtime import CommandRouter
from app.realtime.auth.identity import Identity
from app.realtime.commands.dispatcher import Dispatcher
from app.realtime.connections.connection import Connection
from app.realtime.protocol import SERVICE_RESTART, Close
from app.realtime.server import process as server
from app.realtime.server.process import (
    DRAIN_BATCH,
    KEEPALIVE_IDLE_S,
    RECEIVE_S,
    UVICORN_PAUSE_S,
)
from app.realtime.server.websocket import FrameProtocol
from dev import fresh_secrets

from ..client import START_S, STOP_S, Client, connect_options
from ..engine import make_app
from ..live import Live, make_settings, run_app, run_service, wait_until, wait_until_async
from ..raw_client import raw_client
from .test_process import LISTENING, next_line, run_process


async def status(process: Process, timeout_s: float = STOP_S) -> int:
    """Wait until a process exits, and return its status."""
    async with asyncio.timeout(timeout_s):
        await process.communicate()
    assert process.returncode is not None
    return process.returncode


HIGH_LIMITS = {
    "CLIENTS_MAY_BROADCAST": "true",
    "MAX_UNSENT_BYTES": "100000000",
    "MAX_UNSENT_TOTAL_BYTES": "100000000",
    "MAX_BYTES_PER_S": "100000000",
    "MAX_BYTES_PER_S_PER_USER": "100000000",
    "MAX_BYTES_PER_S_PER_TARGET": "100000000",
    "MAX_MESSAGES_PER_S": "100000",
    "MAX_MESSAGES_PER_S_PER_USER": "100000",
}
LONG_TIMEOUTS = {"SHUTDOWN_GRACE_S": "60", "CLOSE_TIMEOUT_S": "60", "TCP_USER_TIMEOUT_S": "60"}


ENGINE = ("-m", "tests.realtime.engine")
PATIENT_ENGINE = (
    "-c",
    "import runpy; from app.realtime.server import process; process.INTERRUPT_GRACE_S = 8.0; "
    "runpy.run_module('tests.realtime.engine', run_name='__main__')",
)
"""Gives a shutdown by SIGINT more time, in which the machine may pause."""


@asynccontextmanager
async def run_stuck(
    cwd: Path, program: Sequence[str] = ENGINE, **environment: str
) -> AsyncIterator[tuple[Process, Client]]:
    """Run a process with a client, and a stuck client with much unsent data."""
    secrets = fresh_secrets()
    settings = make_settings(**{name.lower(): value for name, value in secrets.items()})
    environment |= {"PORT": "0", **HIGH_LIMITS, **secrets}
    async with run_process(cwd, program, **environment) as process:
        port = int((await next_line(process, r"http://127\.0\.0\.1:(\d+)"))[1])
        client = await Client.open(await connect_options(settings, "alice", port=port))
        async with raw_client(await connect_options(settings, "bob", port=port)) as stuck:
            await stuck.upgraded()
            assert (await stuck.text())["type"] == "welcome"
            for _ in range(100):
                assert (await client.ask(type="broadcast", data="x" * 60_000))["type"] == "ok"
            yield process, client


@pytest.mark.hostile(75, 76)
async def test_shutdown_under_load_with_a_stuck_client_meets_the_deadline(tmp_path: Path) -> None:
    patient = LONG_TIMEOUTS | {"SHUTDOWN_GRACE_S": "20"}
    async with run_stuck(tmp_path, **patient) as (process, client):
        for number in range(1_000):
            await client.send(type="ping", id=str(number))
        process.send_signal(signal.SIGTERM)
        assert await client.closed() == SERVICE_RESTART
        assert await status(process) == 0


async def test_a_second_signal_kills_the_process(tmp_path: Path) -> None:
    async with run_stuck(tmp_path, **LONG_TIMEOUTS) as (process, client):
        process.send_signal(signal.SIGTERM)
        assert await client.closed() == SERVICE_RESTART
        process.send_signal(signal.SIGTERM)
        assert await status(process) == -signal.SIGTERM


async def test_sigint_skips_the_grace_period(tmp_path: Path) -> None:
    async with run_stuck(tmp_path, PATIENT_ENGINE, **LONG_TIMEOUTS) as (process, client):
        process.send_signal(signal.SIGINT)
        assert await client.closed() == SERVICE_RESTART
        assert await status(process) == 0


async def test_a_host_of_another_machine_exits_with_one_line_and_status_1(tmp_path: Path) -> None:
    # RFC 5737; a label that is too long; an address of IPv4 as one of IPv6
    for host in ("192.0.2.1", "x" * 64, "::ffff:127.0.0.1"):
        async with run_process(tmp_path, PORT="0", HOST=host, **fresh_secrets()) as process:
            async with asyncio.timeout(START_S):
                _, errors = await process.communicate()
            assert process.returncode == 1
            assert errors.decode().startswith(f"error: HOST: cannot listen at {host}: ")
            assert len(errors.splitlines()) == 1


ENDS_AT_ONCE = """
import os
import signal
import sys
from app.realtime import Job, RealtimeSettings, serve
from tests.realtime.engine import make_app

if "closed" not in sys.argv:
    for descriptor in map(int, sys.argv[1:]):
        os.close(descriptor)
    os.execv(sys.executable, [*sys.orig_argv, "closed"])

async def stop(service):
    signal.raise_signal(signal.SIGTERM)

serve(make_app(RealtimeSettings.load(), jobs=[Job(stop)]))
"""


@pytest.mark.parametrize("closed", ["0", "0 1", "0 1 2"])
@pytest.mark.parametrize("kind", ["development", "production"])
async def test_without_standard_streams_it_ends_in_order(
    tmp_path: Path, closed: str, kind: str
) -> None:
    environment = fresh_secrets() | {"PORT": "0", "ENVIRONMENT": kind}
    program = ("-c", ENDS_AT_ONCE, *closed.split())
    async with run_process(tmp_path, program, **environment) as process:
        assert await status(process, START_S) == 0


ENDLESS_TASK = """
import asyncio
import sys
from app.realtime import RealtimeSettings, serve
from app.realtime.server import process
from app.realtime.server.process import Server
from tests.realtime.engine import make_app

process.LOG_SHARE = 0.5

async def ignore_cancellation():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def main_loop(server):
    server.server_state.tasks.add(asyncio.create_task(ignore_cancellation()))
    print("busy", file=sys.stderr, flush=True)
    await super(Server, server).main_loop()

Server.main_loop = main_loop
serve(make_app(RealtimeSettings.load()))
"""


async def test_a_task_that_ignores_cancellation_does_not_block_shutdown(tmp_path: Path) -> None:
    program = ("-c", ENDLESS_TASK)
    environment = fresh_secrets() | {"PORT": "0", "SHUTDOWN_GRACE_S": "8"}
    async with run_process(tmp_path, program, **environment) as process:
        await next_line(process, "busy")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            await next_line(process, "the service did not stop in time")
        assert await status(process) == 1


BLOCKED_LOG = """
import logging
import os
import sys
import threading
import time
from app.realtime import RealtimeSettings, serve
from app.realtime.server.process import Server, log
from tests.realtime.engine import make_app

def announce_when_blocked():
    # A signal that comes just before a system call is handled only after it. A thread that is at
    # the same instruction 20 times in a row is in such a call.
    thread, looks = threading.main_thread().ident, []
    while len(looks) < 20:
        frame = sys._current_frames()[thread]
        look = frame.f_code, frame.f_lasti
        looks = [*looks, look] if look in looks else [look]
        time.sleep(0.005)
    print("full", flush=True)

async def main_loop(server):
    reading, writing = os.pipe()  # never read
    os.dup2(writing, 2)
    os.set_blocking(2, False)
    try:
        while True:
            os.write(2, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(2, True)
    if "thread" in sys.argv:
        threading.Thread(target=log.info, args=["which waits, with the lock"], daemon=True).start()
        lock = logging.root.handlers[0].lock
        while lock.acquire(blocking=False):
            lock.release()
        print("full", flush=True)
        await super(Server, server).main_loop()
    else:
        threading.Thread(target=announce_when_blocked, daemon=True).start()
        log.info("which blocks the event loop")

Server.main_loop = main_loop
serve(make_app(RealtimeSettings.load()))
"""


@pytest.mark.parametrize("writer", ["event loop", "thread"])
async def test_a_blocked_log_does_not_block_shutdown(tmp_path: Path, writer: str) -> None:
    environment = fresh_secrets() | {"PORT": "0", "SHUTDOWN_GRACE_S": "2"}
    async with run_process(tmp_path, ("-c", BLOCKED_LOG, writer), **environment) as process:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            assert await process.stdout.readline() == b"full\n"
        process.send_signal(signal.SIGTERM)
        assert await status(process) == 1


FAILING = """
from app.realtime import RealtimeSettings, serve
from app.realtime.server.process import Server
from tests.realtime.engine import make_app

async def main_loop(server):
    server.app.stop()
    await super(Server, server).main_loop()

Server.main_loop = main_loop
serve(make_app(RealtimeSettings.load()))
"""


async def test_a_failure_exits_with_1(tmp_path: Path) -> None:
    async with run_process(tmp_path, ("-c", FAILING), **fresh_secrets(), PORT="0") as process:
        await next_line(process, "draining")
        assert await status(process) == 1


FAILING_JOBS = """
import asyncio
import signal
import sys
from contextlib import asynccontextmanager
from app.realtime import Job, RealtimeSettings, serve
from tests.realtime.engine import make_app

failing = asyncio.Event()

@asynccontextmanager
async def resources(service):
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, failing.set)
    yield
    print("closed", flush=True)

async def fail(service):
    await failing.wait()
    if "signal" in sys.argv:
        signal.raise_signal(signal.SIGTERM)
    raise RuntimeError

jobs = [Job(fail, essential=True) for _ in range(sys.argv.count("job"))]
serve(make_app(RealtimeSettings.load(), resources=resources, jobs=jobs))
"""
"""Its jobs fail when it gets SIGUSR1, all at once."""


@asynccontextmanager
async def run_failing(
    cwd: Path, *arguments: str, **environment: str
) -> AsyncIterator[tuple[Process, Client]]:
    """Run a process with these jobs and a client, and let the jobs fail."""
    secrets = fresh_secrets()
    settings = make_settings(**{name.lower(): value for name, value in secrets.items()})
    environment |= {"PORT": "0", **secrets}
    async with run_process(cwd, ("-c", FAILING_JOBS, *arguments), **environment) as process:
        port = int((await next_line(process, LISTENING))[1])
        client = await Client.open(await connect_options(settings, "alice", port=port))
        process.send_signal(signal.SIGUSR1)
        yield process, client


@pytest.mark.parametrize("arguments", [["job"], ["job", "job"], ["job", "signal"]], ids="-".join)
async def test_jobs_that_fail_together_or_after_a_signal_drain_the_process(
    tmp_path: Path, arguments: list[str]
) -> None:
    async with run_failing(tmp_path, *arguments) as (process, client):
        assert await client.closed() == SERVICE_RESTART
        async with asyncio.timeout(STOP_S):
            output, _ = await process.communicate()
        assert output == b"closed\n"
        assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_after_a_failed_job_is_the_first_one(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with run_failing(tmp_path, "job", **LONG_TIMEOUTS) as (process, client):
        client.connection.transport.pause_reading()  # so that the process waits for it
        await next_line(process, "draining")
        process.send_signal(number)
        client.connection.transport.resume_reading()
        assert await client.closed() == SERVICE_RESTART
        assert await status(process) == 1


async def test_a_second_signal_after_a_failed_job_kills_the_process(tmp_path: Path) -> None:
    async with run_failing(tmp_path, "job", **LONG_TIMEOUTS) as (process, client):
        client.connection.transport.pause_reading()
        await next_line(process, "draining")
        ended = asyncio.create_task(status(process))
        while not ended.done():
            process.send_signal(signal.SIGTERM)
            await asyncio.wait([ended], timeout=0.05)
        client.connection.transport.resume_reading()
        assert await client.closed() == SERVICE_RESTART
        assert ended.result() == -signal.SIGTERM


async def test_a_service_that_stops_accepts_clients_during_the_delay(tmp_path: Path) -> None:
    secrets = fresh_secrets()
    settings = make_settings(**{name.lower(): value for name, value in secrets.items()})
    delay = {"PORT": "0", "SHUTDOWN_DELAY_S": "60"}
    async with run_process(tmp_path, ENGINE, **secrets, **delay) as process:
        port = int((await next_line(process, LISTENING))[1])
        process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=START_S) as http:

            async def is_stopping() -> bool:
                return "draining" in (await http.get("/readyz")).text

            await wait_until_async(is_stopping)
        client = await Client.open(await connect_options(settings, "alice", port=port))
        process.send_signal(signal.SIGTERM)
        assert await status(process) == -signal.SIGTERM
        await client.close()


@pytest.mark.hostile(75)
async def test_connections_are_drained_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[str]] = [[]]
    pauses: list[float] = []
    close, sleep = Connection.close, asyncio.sleep

    def note(connection: Connection, reason: Close) -> None:
        if connection.closed is None:
            batches[-1].append(connection.id)
        close(connection, reason)

    async def pause(seconds: float) -> None:
        if len(pauses) < 2:
            pauses.append(seconds)
            batches.append([])
        await sleep(seconds)

    crowd = 3 * DRAIN_BATCH
    settings = make_settings(max_connections_per_user=crowd, shutdown_grace_s=20)
    async with run_service(settings) as live:
        clients = [await live.connect() for _ in range(crowd)]
        monkeypatch.setattr(Connection, "close", note)
        monkeypatch.setattr(server, "sleep", pause)
        live.server.stop.set()
        for client in clients:
            assert await client.closed() == SERVICE_RESTART
    assert [len(batch) for batch in batches] == [DRAIN_BATCH, DRAIN_BATCH, DRAIN_BATCH]
    assert len(set(pauses)) == 2
    told = [name for batch in batches for name in batch]
    ids = [client.welcome["connection"] for client in clients]
    assert told != ids
    assert sorted(told) == sorted(ids)


class Clock:
    """A clock with a ``sleep`` that advances it; `closings` has the times of closed connections."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.closings: list[float] = []

    def time(self) -> float:
        """Return the time."""
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.now_s += seconds

    def close(self, reason: Close) -> None:
        """Record the time of a close."""
        assert reason == SERVICE_RESTART
        self.closings.append(self.now_s)


@pytest.mark.hostile(75)
@pytest.mark.parametrize(
    ("connections", "shortest_s", "longest_s"),
    [(0, 0.0, 0.0), (DRAIN_BATCH, 0.0, 0.0), (300, 1.5, 4.5), (772, 4.0, 5.5), (20_000, 4.0, 5.5)],
)
async def test_a_drain_of_many_connections_uses_the_grace_period(
    monkeypatch: pytest.MonkeyPatch, connections: int, shortest_s: float, longest_s: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(server, "get_running_loop", lambda: clock)
    monkeypatch.setattr(server, "sleep", clock.sleep)
    draining: Any = SimpleNamespace(service=SimpleNamespace(manager=[clock] * connections))
    began_at = clock.now_s
    await server.Server._drain(draining, until=began_at + 5)
    assert len(clock.closings) == connections
    assert shortest_s <= clock.now_s - began_at <= longest_s


@pytest.mark.hostile(75)
async def test_a_draining_service_is_not_ready_and_refuses_handshakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = asyncio.Event()
    drain = server.Server._drain

    async def wait(*arguments: Any) -> None:
        await told.wait()
        await drain(*arguments)

    monkeypatch.setattr(server.Server, "_drain", wait)
    async with run_service() as live:
        client = await live.connect()
        live.server.stop.set()
        await wait_until(lambda: live.service.manager.draining)
        ready = await live.get("/readyz")
        async with raw_client(await live.options()) as newcomer:
            head = await newcomer.head()
        is_quiet = await client.is_quiet()
        told.set()
        assert await client.closed() == SERVICE_RESTART
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert head.startswith("HTTP/1.1 503 ")
    assert "retry-after: " in head
    assert is_quiet


@pytest.mark.parametrize("ends_in_time", [True, False])
async def test_a_handshake_in_progress_at_shutdown_is_refused(
    monkeypatch: pytest.MonkeyPatch, *, ends_in_time: bool
) -> None:
    begun, waiting = asyncio.Event(), asyncio.Event()
    async with run_service() as live:
        authenticator = live.service.authenticator
        authenticate = authenticator.authenticate

        async def wait(handshake: HTTPConnection) -> Identity:
            begun.set()
            await waiting.wait()
            return await authenticate(handshake)

        monkeypatch.setattr(authenticator, "authenticate", wait)
        async with raw_client(await live.options()) as newcomer:
            await begun.wait()
            live.server.stop.set()
            await wait_until(lambda: live.service.manager.draining)
            if ends_in_time:
                waiting.set()
            head = await newcomer.head()
        counts = live.counts()
    assert head.startswith("HTTP/1.1 503 ")
    assert "retry-after: " in head
    assert counts["ws_handshakes_refused_total 503 the service is stopping"] == 1


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_route_of_the_team_cannot_accept_after_the_end(
    caplog: pytest.LogCaptureFixture, *, is_stopped: bool
) -> None:
    begun, waiting = asyncio.Event(), asyncio.Event()
    app = make_app(make_settings())

    @app.websocket("/own")
    async def own(websocket: WebSocket) -> None:
        begun.set()
        await waiting.wait()
        await websocket.accept()

    with capture_logs() as lines:
        async with run_app(app) as live:
            options, answer = await live.options(), ""
            options = replace(options, uri=options.uri.replace("/ws", "/own"))
            async with raw_client(options) as client:
                await begun.wait()
                (protocol,) = live.server.server_state.connections
                assert isinstance(protocol, FrameProtocol)
                if is_stopped:
                    live.server.stop.set()
                    await wait_until(lambda: protocol.inbox.has_end)
                    waiting.set()
                    answer = await client.head() + str(await client.rest())
            await wait_until(lambda: protocol.inbox.has_end)
            waiting.set()
            await wait_until(lambda: not live.server.server_state.tasks)
    assert answer.count("HTTP/1.1 ") == answer.count("HTTP/1.1 503 ") == is_stopped
    assert not [line for line in lines if line["log_level"] == "error"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.hostile(75)
async def test_commands_in_progress_at_shutdown_are_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []
    dispatch, wait = Dispatcher.dispatch, uvicorn.Server._wait_tasks_to_complete
    waiting = asyncio.Event()

    async def work(*arguments: Any) -> Any:
        steps.append("begun")
        await waiting.wait()
        answer = await dispatch(*arguments)
        steps.append("finished")
        return answer

    async def note_and_wait(server: uvicorn.Server) -> None:
        waiting.set()
        await wait(server)

    monkeypatch.setattr(Dispatcher, "dispatch", work)
    monkeypatch.setattr(uvicorn.Server, "_wait_tasks_to_complete", note_and_wait)
    async with run_service(make_settings(shutdown_grace_s=20)) as live:
        client = await live.connect()
        await client.send(type="broadcast", data=1)
        await wait_until(lambda: steps == ["begun"])
        live.server.stop.set()
        assert await client.closed() == SERVICE_RESTART
    assert steps == ["begun", "finished"]


def option(live: Live, level: int, name: int) -> int:
    """Return an option of the only accepted socket."""
    (protocol,) = live.server.server_state.connections
    return int(protocol.transport.get_extra_info("socket").getsockopt(level, name))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not let it be chosen")
@pytest.mark.parametrize(("setting", "milliseconds"), [(1.5, 1500), (0, 0)])
async def test_tcp_options_are_set(setting: float, milliseconds: int) -> None:
    if sys.platform == "linux":
        async with run_service(make_settings(tcp_user_timeout_s=setting)) as live:
            await live.connect()
            assert option(live, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
            assert option(live, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert option(live, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in another way")
@pytest.mark.parametrize(("bytes_per_s", "is_bounded"), [(65_536, True), (1_000_000_000, False)])
async def test_the_receive_buffer_follows_the_rate(bytes_per_s: int, *, is_bounded: bool) -> None:
    async with run_service(make_settings(max_bytes_per_s=bytes_per_s)) as live:
        await live.connect()
        # Linux adds as much for its own.
        size_bytes = option(live, socket.SOL_SOCKET, socket.SO_RCVBUF) / 2
        assert (size_bytes == RECEIVE_S * bytes_per_s) is is_bounded


@pytest.mark.hostile(58)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not let it be chosen")
async def test_tcp_user_timeout_ends_a_peer_that_does_not_read() -> None:
    settings = make_settings(
        tcp_user_timeout_s=0.3, close_timeout_s=60, max_unsent_bytes=10_000_000
    )
    async with run_service(settings) as live, raw_client(await live.options()) as client:
        await client.upgraded()
        (connection,) = live.service.manager
        connection.send_encoded(b"x" * 8_000_000)
        await wait_until(lambda: not live.server.server_state.connections)
        await wait_until(lambda: len(live.service.manager) == 0)


async def test_the_end_of_the_application_has_its_share_of_the_grace_period() -> None:
    async with run_service(make_settings(shutdown_grace_s=10)) as live:
        live.server._ends_at = monotonic() + 3.05  # as after a long drain
    assert live.server.config.timeout_graceful_shutdown == 0.0
    assert f"asyncio.sleep({UVICORN_PAUSE_S})" in inspect.getsource(uvicorn.Server.shutdown)


async def test_the_server_closes_a_connection_that_is_beginning() -> None:
    own, has_begun = CommandRouter(), asyncio.Event()

    @own.connecting
    async def begin(service: Any, connection: Connection) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    async with run_service(commands=own) as live:
        client = await live.connect_with(await live.options(), welcomed=False)
        await has_begun.wait()
        live.server.stop.set()
        assert await client.closed() == SERVICE_RESTART
    assert live.counts()["ws_connections_closed_total server 1012"] == 1
