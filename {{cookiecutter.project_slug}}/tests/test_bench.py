"""The benchmark counts right, and says so when a server does not."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol, Side

from bench import SCENARIOS, __main__, clients, processes, table
from bench.bare_loop import UPGRADE, WELCOME, Member
from bench.clients import STAMP, Client, Clients, Failure, frame
from bench.processes import Server, run_bare_loop, running
from bench.scenarios import BROADCAST, PING, Outcome, Scenario, echo, latency

from .realtime.live import Live, wait_until

SIZES = [125, 126, 127, 65_535, 65_536]
NOWHERE = Path(os.devnull)


@pytest.mark.parametrize("size", [0, *SIZES])
@pytest.mark.parametrize(("masked", "reader"), [(True, SERVER), (False, CLIENT)])
def test_others_can_read_the_frames(size: int, masked: bool, reader: Side) -> None:
    protocol = Protocol(reader)
    protocol.receive_data(frame(b"x" * size, masked=masked) * 2)
    assert protocol.events_received() == [Frame(Opcode.TEXT, b"x" * size)] * 2


def stream(numbers: list[int], size: int = 100) -> bytes:
    """Return what a server sends: for each number a frame with so many bytes in it."""
    stamps = (STAMP % (0, number) for number in numbers)
    return b"".join(frame(stamp.center(size, b"."), masked=False) for stamp in stamps)


@pytest.fixture
def client() -> Iterator[Client]:
    """Return a client that gets what the test gives it."""
    with socket.socket() as unconnected:
        yield Client(unconnected)


def test_frames_are_counted_wherever_they_are_split(client: Client) -> None:
    data = stream([0, 1, 2])
    for position in range(len(data) + 1):
        client.got = client.next = 0
        client.take(data[:position])
        client.take(data[position:])
        assert (client.got, client.next, client.gaps) == (3, 3, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [1000, 65_536])
def test_frames_of_any_size_are_counted(client: Client, size: int, chunk: int) -> None:
    data = stream([0, 1, 2], size)
    for position in range(0, len(data), chunk):
        client.take(data[position : position + chunk])
    assert (client.got, client.next, client.gaps) == (3, 3, 0)


@pytest.mark.parametrize(
    ("chunks", "got", "gaps"),
    [
        ([[0, 1, 2], [3]], 4, 0),
        ([[0, 2, 3]], 3, 1),
        ([[0], [2, 3]], 3, 1),
        ([[0, 1, 1, 2, 3]], 5, 1),
        ([[0, 1], [1, 2, 3]], 5, 1),
        ([[0], [2], [1], [3]], 4, 3),
    ],
    ids=["right", "lost", "lost between", "twice", "twice between", "out of order"],
)
def test_the_books_are_exact(client: Client, chunks: list[list[int]], got: int, gaps: int) -> None:
    for chunk in chunks:
        client.take(stream(chunk))
    assert (client.got, client.next, client.gaps) == (got, 4, gaps)


@asynccontextmanager
async def serve(member: type[Member]) -> AsyncIterator[Server]:
    """Run a bare loop in this process, perhaps one with a fault."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(member, "127.0.0.1", 0)
    async with listener:
        yield Server("the server", listener.sockets[0].getsockname()[1], os.getpid(), NOWHERE)


def spoiling(spoil: Callable[[bytes], bytes]) -> type[Member]:
    """Return a bare loop that spoils the second of its deliveries of message 3."""
    deliveries = count(1)

    class Spoiled:
        def __init__(self, transport: Any) -> None:
            self.close = transport.close
            self._write = transport.write

        def write(self, data: bytes) -> None:
            is_spoiled = b"S0000000003" in data and next(deliveries) == 2
            self._write(spoil(data) if is_spoiled else data)

    class SpoilingMember(Member):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast(asyncio.Transport, Spoiled(transport)))

    return SpoilingMember


def send_five_messages(server: Server, members: int) -> None:
    """Have the first of the members send to all, one message at a time."""
    with Clients() as some:
        some.open(server.connect_options(members))
        publisher, message = some.members[0], BROADCAST.message(server)
        for number in range(5):
            publisher.ask(message)
            while publisher.next <= number:
                some.read()
        for member in some.members:
            member.asked = 5
        some.finish(PING.message(server))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda data: b"", "17 of 18 messages came; out of sequence: 1"),
        (lambda data: data * 2, "19 of 18 messages came; out of sequence: 1"),
    ],
    ids=["lost", "twice"],
)
async def test_one_wrong_delivery_is_a_failure(
    spoil: Callable[[bytes], bytes], complaint: str
) -> None:
    async with serve(spoiling(spoil)) as server:
        with pytest.raises(Failure, match=f"^{complaint}$"):
            await asyncio.to_thread(send_five_messages, server, 3)


async def test_right_deliveries_are_none() -> None:
    async with serve(spoiling(lambda data: data)) as server:
        await asyncio.to_thread(send_five_messages, server, 3)


def answering(*answers: bytes) -> type[Member]:
    """Return a server that answers what it reads, with one after another of these, and closes."""

    class AnsweringMember(Member):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.answers = list(answers)

        def data_received(self, data: bytes) -> None:
            self.transport.write(self.answers.pop(0))
            if not self.answers:
                self.transport.close()

    return AnsweringMember


def close_frame(code: int, reason: str) -> bytes:
    """Return what a server sends before it closes a connection."""
    return Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False)


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([b"HTTP/1.1 503 Service Unavailable\r\n\r\n"], r"HTTP/1.1 503 Service Unavailable$"),
        ([UPGRADE + close_frame(4500, "unauthorized")], "closed: 4500 unauthorized$"),
        ([UPGRADE + WELCOME, close_frame(1012, "restart")], "closed: 1012 restart$"),
        ([UPGRADE + WELCOME, b""], "the connection was lost$"),
    ],
    ids=["refused", "rejected", "closed", "lost"],
)
async def test_why_a_connection_ends_is_told(answers: list[bytes], complaint: str) -> None:
    async with serve(answering(*answers)) as server:
        with pytest.raises(Failure, match=complaint):
            await asyncio.to_thread(echo, server, 1, 0.02)


async def test_a_server_that_says_nothing_more_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "PATIENCE_S", 0.02)
    async with serve(answering(UPGRADE + WELCOME, b"", b"", b"")) as server:
        with pytest.raises(TimeoutError, match="nothing came for"):
            await asyncio.to_thread(echo, server, 1, 0.02)


async def test_latency_counts_from_when_a_message_was_due() -> None:
    class StuckOnce(Member):
        def data_received(self, data: bytes) -> None:
            if b"S0000000000" in data:
                time.sleep(0.1)
            super().data_received(data)

    async with serve(StuckOnce) as server:
        outcome = await asyncio.to_thread(latency, server, 1, 0.05)
    # The five that were due at 0, 10, … 40 ms were all sent after 100 ms.
    assert outcome.figures[0] >= 80


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_each_scenario_against_the_service(live: Live, scenario: Scenario) -> None:
    server = Server("the service", live.port, os.getpid(), NOWHERE, live.settings)
    outcome = await asyncio.to_thread(scenario.measure, server, 3, 0.02)
    assert len(outcome.figures) in ({len(scenario.labels)} if scenario.compared else {0, 1})
    await wait_until(lambda: len(live.service.manager) == 0)


def is_alive(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_servers_are_ended_when_the_user_has_enough() -> None:
    pids = []

    def have_enough() -> None:
        with run_bare_loop() as server:
            pids.append(server.pid)
            assert is_alive(server.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        have_enough()
    assert not is_alive(pids[0])


def test_a_server_that_dies_is_a_failure() -> None:
    with run_bare_loop() as server, Clients() as some:
        some.open(server.connect_options(1))
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(Failure, match="the connection was lost"):
            some.read()


def test_the_last_words_of_a_server_that_does_not_start() -> None:
    command = [sys.executable, "-c", "raise SystemExit('error: MOOD: is not set')"]
    with pytest.raises(Failure) as failure, running("the service", command, {}):
        pass
    assert str(failure.value) == "the service: does not start\nerror: MOOD: is not set"


def test_a_setting_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(processes.LOAD_SETTINGS, "MAX_CONNECTIONS", "many")
    with pytest.raises(Failure, match=r"^MAX_CONNECTIONS: missing or wrong in LOAD_SETTINGS"):
        processes.run_service()


def test_a_run_prints_its_table_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / ".bench.json"
    kept.write_text("{", encoding="utf-8")
    monkeypatch.setattr(__main__, "LAST_RUN", kept)
    monkeypatch.setattr(__main__, "MEMBERS", 3)
    monkeypatch.setattr(processes, "CORES", [])
    __main__.run(Namespace(only=["echo"], seconds=0.02, rounds=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: .bench.json is damaged")
    assert lines[1] == "note: client and servers have no processor cores of their own here"
    assert lines[2] == table.HEADER
    assert re.match(
        r"echo, 100 connections +[\d,.]+ answers/s +[\d.]+% \(\S+% to \S+%\)$", lines[3]
    )
    assert table.load(kept).keys() == {"echo, 100 connections"}


def test_the_figures_are_compared_with_the_last_run_s(tmp_path: Path) -> None:
    def lines(*rows: table.Row) -> list[str]:
        last_run = table.load(tmp_path / "kept")
        table.save(tmp_path / "kept", list(rows), last_run)
        return [" ".join(row.line(last_run).split()) for row in rows]

    fan_out_row = table.Row("fan-out", "deliveries/s", [900, 1200, 1500], [0.55, 0.5, 0.6])
    assert lines(fan_out_row) == ["fan-out 1,200 deliveries/s 55% (50% to 60%)"]
    memory_row, none = table.Row("memory", "KiB", [20.5], []), table.Row("memory", "KiB", [], [])
    assert lines(memory_row) == ["memory 20.50 KiB"]
    assert lines(memory_row._replace(figures=[41.0])) == ["memory 41.00 KiB 20.50 (+100.0% since)"]
    assert lines(none) == ["memory not measured: no /proc"]
    slower = fan_out_row._replace(figures=[600], shares=[0.5])
    assert lines(slower) == ["fan-out 600.00 deliveries/s 50% (50% to 50%) 55% (-9.1% since)"]


def test_rows_compare_each_round_with_the_bare_loop_s() -> None:
    scenario = Scenario("x", echo, "ms", ("p50", "p99"))
    service = [Outcome((1.0, 4.0), 0), Outcome((3.0, 6.0), 0)]
    bare_loop = [Outcome((2.0, 2.0), 0), Outcome((4.0, 3.0), 0)]
    outcomes = {"the service": service, "the bare loop": bare_loop}
    assert list(__main__.rows(scenario, outcomes)) == [
        table.Row("p50", "ms", [1.0, 3.0], [0.5, 0.75]),
        table.Row("p99", "ms", [4.0, 6.0], [2.0, 2.0]),
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "x"], "argument --seconds: 'x' is no number from 0.1 to 10"),
        (["--seconds", "60"], "argument --seconds: '60' is no number from 0.1 to 10"),
        (["--only", "speed"], "argument --only: invalid choice: 'speed' (choose from"),
        (["--rounds", "0"], "argument --rounds: invalid choice: 0 (choose from"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        __main__.parse(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bench: error: {complaint}")
