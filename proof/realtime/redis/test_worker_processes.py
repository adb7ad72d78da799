"""Worker processes: their signals, sockets and failures."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.realtime.server.workers import Parent

from ..client import START_S, STOP_S
from ..engine import make_app
from ..live import make_settings
from ..server.test_process import next_line, run_process
from . import test_workers
from .test_workers import run_node, run_parent
from .valkey import Valkey


def ignores(pid: int, number: signal.Signals) -> bool:
    """Return whether a process ignores a signal; on Linux (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    return bool(ignored & 1 << (number - 1))


def test_a_name_is_bound_at_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def both(host: str, port: int, **options: Any) -> list[Any]:
        hosts = ("::1", "127.0.0.1", "::1") if host == "both.test" else (host,)
        return [each for name in hosts for each in resolve(name, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with contextlib.ExitStack() as bound:
        listeners = Parent(make_settings(host="both.test"))._bind(0)
        names = [bound.enter_context(each).getsockname() for each in listeners]
    assert [name[0] for name in names] == ["::1", "127.0.0.1"]
    assert len({name[1] for name in names}) == 1


ADDRESSES: dict[str, tuple[int, tuple[str | int, ...]]] = {
    "bound": (socket.AF_INET, ("127.0.0.1", 0)),
    "not of this machine": (socket.AF_INET, ("192.0.2.1", 0)),  # RFC 5737
    "of an unknown family": (99, ("::1", 0, 0, 0)),
}


@pytest.mark.parametrize("missing", ["not of this machine", "of an unknown family"])
def test_an_address_that_the_machine_does_not_have_is_skipped(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """As where `/etc/hosts` has `::1 localhost`, but IPv6 is off."""
    found: list[str] = []

    def resolve(*_: object, **__: object) -> list[Any]:
        entries = (ADDRESSES[name] for name in found)
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in entries]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for found[:] in ([missing, "bound"], ["bound", missing]):
        (listener,) = Parent(make_settings(host="localhost"))._bind(0)
        with listener:
            assert listener.getsockname()[0] == "127.0.0.1"
    for host, found[:] in (("localhost", [missing]), ("::", [missing, "bound"])):
        with pytest.raises(OSError, match=r"Cannot assign|not supported"):
            Parent(make_settings(host=host))._bind(0)


async def test_a_signal_to_all_processes_drains_them(shared_valkey: Valkey, tmp_path: Path) -> None:
    """As from a process manager: the workers get it from their parent once more."""
    async with run_node(tmp_path, shared_valkey.url) as node:
        clients = await node.connect_to_each()
        for client in clients:
            client.connection.transport.pause_reading()  # so that the workers wait for it
        for pid in node.pids.values():
            os.kill(pid, signal.SIGTERM)
            await next_line(node.process, "draining")
            if sys.platform == "linux":
                assert ignores(pid, signal.SIGTERM)
        node.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.connection.transport.resume_reading()
        await node.check_drained(clients)


async def test_a_second_signal_ends_the_parent_and_its_workers_at_once(
    shared_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the second signal, a worker would wait longer than the test for clients.
    slow_drain = partial(run_process, CLOSE_TIMEOUT_S="120", SHUTDOWN_GRACE_S="120")
    monkeypatch.setattr(test_workers, "run_process", slow_drain)
    async with run_node(tmp_path, shared_valkey.url) as node:
        clients = await node.connect_to_each()
        for client in clients:
            client.connection.transport.pause_reading()
        node.process.send_signal(signal.SIGTERM)
        for _ in node.pids:
            await next_line(node.process, "draining")
        node.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            await node.process.communicate()  # until no process can write to the log
        assert node.process.returncode == -signal.SIGTERM
        for client in clients:
            client.connection.transport.resume_reading()
            await client.closed()


SLOW_IMPORT = """
import os
import sys
import time
if "APP_REALTIME_WORKER" in os.environ:
    print("importing", file=sys.stderr, flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
from app.realtime import RealtimeSettings, serve
from tests.realtime.engine import make_app
serve(make_app(RealtimeSettings.load()))
"""


async def test_ctrl_c_while_the_workers_start_is_no_failure(
    shared_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = partial(run_process, program=("-c", SLOW_IMPORT))
    monkeypatch.setattr(test_workers, "run_process", program)
    async with run_parent(tmp_path, shared_valkey.url) as process:
        for _ in range(2):
            await next_line(process, "importing")
        process.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        async with asyncio.timeout(START_S):
            _, rest = await process.communicate()
        assert b"Traceback" not in rest
        assert process.returncode == 0


async def test_a_worker_that_ends_in_order_starts_again(
    shared_valkey: Valkey, tmp_path: Path
) -> None:
    async with run_node(tmp_path, shared_valkey.url) as node:
        os.kill(node.pids[1], signal.SIGTERM)
        await next_line(node.process, '"signal": null, .*"worker ended"')
        await node.note_start()
        node.process.send_signal(signal.SIGTERM)
        await node.check_drained([])


async def test_metrics_need_the_port_of_a_process_also_if_the_server_tells_none() -> None:
    key = "a-key-for-the-monitoring-" * 2
    app = make_app(make_settings(metrics_key=key))

    async def without_server(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "server": None}, receive, send)

    transport = httpx.ASGITransport(cast(Any, without_server))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/metrics", headers=headers)).status_code == 200
        app.service.metrics.port = 8001
        assert (await http.get("/metrics", headers=headers)).status_code == 421


async def test_any_address_is_a_socket_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the first port that the system picks is taken for the second kind of address."""
    bind, others = socket.socket.bind, list[socket.socket]()

    def bind_after_another(listener: socket.socket, address: tuple[str, int]) -> None:
        if listener.family == socket.AF_INET and not others:
            others.append(socket.socket())
            bind(others[0], address)
        bind(listener, address)

    monkeypatch.setattr(socket.socket, "bind", bind_after_another)
    listeners = Parent(make_settings(host="::"))._bind(0)
    with contextlib.ExitStack() as stack:
        for each in (*others, *listeners):
            stack.enter_context(each)
        assert {each.family for each in listeners} == {socket.AF_INET, socket.AF_INET6}
        ports = {each.getsockname()[1] for each in listeners}
        assert len(ports) == 1
        assert others[0].getsockname()[1] not in ports


FAILING_FORK = """
import asyncio
import errno
import itertools
import os
from app.realtime import RealtimeSettings, serve
from tests.realtime.engine import make_app

spawn, numbers = asyncio.create_subprocess_exec, itertools.count(1)

async def fail_the_third_time(*args, **options):
    if next(numbers) == 3:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return await spawn(*args, **options)

asyncio.create_subprocess_exec = fail_the_third_time
serve(make_app(RealtimeSettings.load()))
"""


async def test_a_worker_that_the_system_cannot_start_is_started_later(
    shared_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = partial(run_process, program=("-c", FAILING_FORK))
    monkeypatch.setattr(test_workers, "run_process", program)
    async with run_node(tmp_path, shared_valkey.url) as node:
        os.kill(node.pids[1], signal.SIGKILL)
        line = await next_line(node.process, ".*worker not started.*")
        assert os.strerror(errno.EAGAIN) in line[0]
        await node.note_start()
        clients = await node.connect_to_each()
        node.process.send_signal(signal.SIGTERM)
        await node.check_drained(clients)


async def test_a_failed_worker_stops_all_workers(shared_valkey: Valkey, tmp_path: Path) -> None:
    url = f"{shared_valkey.url}?username=nobody&password=wrong"
    async with run_parent(tmp_path, url) as process:
        await next_line(process, "a worker has failed, so all stop")
        async with asyncio.timeout(START_S):
            await process.communicate()
        assert process.returncode == 1


async def test_the_first_signal_after_a_failed_worker_lets_the_others_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []
    for name in ("signal", "raise_signal"):
        monkeypatch.setattr(signal, name, lambda *_: None)  # a second signal would end pytest
    parent = Parent(make_settings())
    parent._processes = cast(Any, [SimpleNamespace(send_signal=sent.append)])
    parent._stop(signal.SIGTERM)  # a worker has failed
    parent._on_signal(signal.SIGTERM)
    assert sent == [signal.SIGTERM, signal.SIGTERM]


async def test_a_port_of_another_service_is_an_error(shared_valkey: Valkey, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = str(other.getsockname()[1])
        async with run_parent(tmp_path, shared_valkey.url, PORT=port) as process:
            await next_line(process, "cannot listen")
            async with asyncio.timeout(START_S):
                assert await process.wait() == 3


async def test_a_host_that_is_no_name_is_the_same_error_with_several_processes(
    shared_valkey: Valkey, tmp_path: Path
) -> None:
    async with run_parent(tmp_path, shared_valkey.url, HOST="x" * 64) as process:
        async with asyncio.timeout(START_S):
            _, errors = await process.communicate()
        assert process.returncode == 1
        assert errors.startswith(b"error: HOST: cannot listen at ")
        assert len(errors.splitlines()) == 1
