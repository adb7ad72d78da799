"""The load generator reports exactly the faults of a server."""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import pytest
from websockets.asyncio.server import ServerConnection

from benchmarks.load import Dialect, Expect, Load, Result, Send, payload, quantile_ms

from .faulty_server import Handler, echo, room, running
from .waiting import wait_until

DEADLINE_S = 90.0
QUIET_S = 10.0

pytestmark = pytest.mark.usefixtures("compiled_load")


@contextmanager
def connected(
    handler: Handler,
    members: int = 10,
    *,
    dialect: Dialect | None = None,
    size: int = 128,
    trickle: bool = False,
) -> Iterator[Load]:
    """Yield open connections to a server."""
    with running(handler, trickle=trickle) as port, Load(dialect, install=False) as load:
        for _ in range(members):
            load.add(port, "/{i}")
        opened = load.connect(timeout_s=DEADLINE_S)
        assert (opened.received, opened.error) == (members, "")
        load.publish(payload(size))
        yield load


def reading(load: Load) -> Callable[[], int]:
    """Return what reads for a moment."""
    return partial(load.idle, 0.01)


def attack_until(condition: Callable[[], bool], load: Load) -> list[Result]:
    """Send some messages or handshakes in turn, again until a condition holds."""
    results: list[Result] = []
    wait_until(condition, lambda: results.append(load.attack(rate=100, seconds=0.1)))
    return results


def test_counts_are_exact() -> None:
    with connected(room()) as load:
        delivered = load.fanout(500, window=8)
    assert (delivered.sent, delivered.expected, delivered.received) == (500, 5000, 5000)
    assert (delivered.duplicates, delivered.late, delivered.closed) == (0, 0, 0)
    assert (delivered.missing, delivered.complaint) == (0, "")


def test_several_publishers() -> None:
    with connected(room()) as load:
        delivered = load.fanout(300, publishers=7)
    assert (delivered.received, delivered.duplicates, delivered.missing) == (3000, 0, 0)


def test_a_sleeping_load_counts_too() -> None:
    with connected(room()) as load:
        load.sleep()
        delivered = load.fanout(50, rate=1000)
    assert (delivered.received, delivered.complaint) == (500, "")
    assert delivered.busy < 1


@pytest.mark.parametrize("size", [50, 125, 126, 127, 4096, 65_535, 65_536, 70_000])
def test_size(size: int) -> None:
    assert len(payload(size)) == size
    with connected(room(), 3, size=size) as load:
        delivered = load.fanout(20, window=4)
    assert (delivered.received, delivered.complaint) == (60, "")


@pytest.mark.parametrize("size", [50, 126, 70_000])
def test_reads_of_few_bytes(size: int) -> None:
    with connected(room(), 1, size=size, trickle=True) as load:
        delivered = load.fanout(2, quiet_s=0, timeout_s=DEADLINE_S)
    assert (delivered.received, delivered.complaint) == (2, "")


def test_messages_for_their_senders_alone() -> None:
    with connected(echo, 3) as load:
        delivered = load.fanout(30, rate=1000, publishers=3, own=True, quiet_s=0)
    assert (delivered.expected, delivered.received, delivered.complaint) == (30, 30, "")


def test_losses_are_counted() -> None:
    with connected(room(lambda number, text: [] if number % 10 == 0 else [text])) as load:
        delivered = load.fanout(100, rate=2000, quiet_s=QUIET_S)
    assert (delivered.expected, delivered.received, delivered.missing) == (1000, 900, 100)
    assert delivered.complaint == "100 missing"


def test_duplicates_are_counted() -> None:
    with connected(room(lambda _, text: [text, text]), 5) as load:
        delivered = load.fanout(100, rate=2000)
        load.settle()
        again = load.fanout(1, quiet_s=QUIET_S)
    # Duplicates of the last message may arrive after the end of the run.
    assert delivered.received == 500
    assert 495 <= delivered.duplicates <= 500
    assert f"{delivered.duplicates} twice" in delivered.complaint
    assert again.received == 5


def test_duplicates_do_not_hide_losses() -> None:
    with connected(room(lambda number, text: [text] * (number % 3)), 2) as load:
        delivered = load.fanout(30, rate=2000, quiet_s=QUIET_S)
    assert (delivered.received, delivered.missing, delivered.duplicates) == (40, 20, 20)


def test_duplicates_of_earlier_messages() -> None:
    earlier: list[str] = []

    def with_the_previous_one(_: int, text: str) -> list[str]:
        earlier.append(text)
        return [text, *earlier[-2:-1]]

    with connected(room(with_the_previous_one), 3) as load:
        delivered = load.fanout(100, rate=2000)
        load.settle()
    assert (delivered.received, delivered.late, delivered.missing) == (300, 0, 0)
    assert 294 <= delivered.duplicates <= 297


def test_reordering() -> None:
    held: list[str] = []

    def in_pairs(number: int, text: str) -> list[str]:
        held.append(text)
        return [held.pop(), held.pop()] if number % 2 == 0 else []

    with connected(room(in_pairs), 5) as load:
        delivered = load.fanout(100, rate=2000)
    assert (delivered.received, delivered.late, delivered.missing) == (500, 250, 0)


def test_deliveries_of_an_earlier_run_do_not_count() -> None:
    released = threading.Event()

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            while not released.is_set():
                await asyncio.sleep(0.01)
            await connection.send(message)

    with connected(handler, 1) as load:
        assert load.fanout(10, window=10, timeout_s=0.01).received == 0
        released.set()
        delivered = load.fanout(1)
    assert (delivered.received, delivered.duplicates, delivered.late) == (1, 0, 0)


def test_a_delay_is_latency() -> None:
    with connected(room(delay_s=0.02)) as load:
        delivered = load.fanout(10, rate=20)
    assert delivered.p50_ms >= 19
    assert delivered.p99_ms >= 19


def test_overload_shows_as_latency() -> None:
    with connected(room(delay_s=0.02)) as load:
        delivered = load.fanout(50, rate=100)
    assert delivered.received == 500
    # Half a second of messages takes a second.
    assert delivered.p99_ms >= 400


def test_messages_carry_their_due_time() -> None:
    marks: list[tuple[int, int]] = []

    def note(_: int, text: str) -> list[str]:
        marks.append((int(text.partition("@T")[2][:19]), int(text.partition("S")[2][:10])))
        return [text]

    with connected(room(note), 1) as load:
        load.fanout(50, rate=1000)
    start = marks[0][0]
    assert marks == [(start + 1_000_000 * number, number) for number in range(50)]


def test_a_quantile_is_that_of_the_histogram() -> None:
    assert quantile_ms([0, 0, 1], 0.5) == pytest.approx(2e-6)
    assert quantile_ms([0] * 64 + [1], 0.99) == pytest.approx(64.5e-6)
    assert quantile_ms([99, 1], 0.99) == 0
    assert quantile_ms([98, 2], 0.99) == pytest.approx(1e-6)
    assert quantile_ms([0], 0.99) == 0


def test_an_echo_answers_each_message() -> None:
    with connected(echo) as load:
        delivered = load.echo(50)
    assert (delivered.sent, delivered.received, delivered.complaint) == (500, 500, "")


def test_messages_of_others_are_not_echoes() -> None:
    with connected(room(), 2) as load:
        delivered = load.echo(20)
    assert delivered.received == 40


def test_an_echo_that_ends() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send(await connection.recv())

    with connected(handler, 1) as load:
        delivered = load.echo(2)
        assert load.ending(0) == "closed with 1000"
    assert (delivered.received, delivered.error) == (1, "the server closed a connection")


def test_a_dialect_awaits_a_greeting_joins_and_answers_pings() -> None:
    said: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.send("hello")
        said.append(str(await connection.recv()))
        await connection.send("joined")
        async for message in connection:
            said.append(str(message))
            await connection.send("ping!")
            said.append(str(await connection.recv()))
            await connection.send(f"[{message!s}]")

    dialect = Dialect(
        greeting=(Expect("hell"), Send("join as {i}"), Expect("joined")),
        envelope='{"to":"{i}","data":{data}}',
        asked="ping",
        answer="pong",
    )
    with connected(handler, 1, dialect=dialect) as load:
        delivered = load.echo(1)
    assert delivered.received == 1
    assert said[0] == "join as 0"
    assert said[1].startswith('{"to":"0","data":{"m":"@T')
    assert said[2] == "pong"


def test_a_message_before_each_one_of_an_echo() -> None:
    said: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            said.append(str(message))
            if message != "before":
                await connection.send(message)

    with connected(handler, 1, dialect=Dialect(before="before")) as load:
        delivered = load.echo(2)
    assert delivered.received == 2
    assert said[::2] == ["before", "before"]
    assert len(said) == 4


def test_a_dialect_must_keep_the_mark() -> None:
    with (
        pytest.raises(ValueError, match="no mark"),
        connected(echo, 1, dialect=Dialect(envelope="data")),
    ):
        pass


def test_pings_are_answered() -> None:
    answered = threading.Event()

    async def handler(connection: ServerConnection) -> None:
        await (await connection.ping("still there?"))
        answered.set()
        await connection.wait_closed()

    with connected(handler, 1) as load:
        wait_until(answered.is_set, reading(load))


def test_a_refused_handshake_gives_the_reason() -> None:
    with running(echo, refuse=True) as port, Load(install=False) as load:
        for _ in range(5):
            load.add(port)
        opened = load.connect(timeout_s=DEADLINE_S)
    assert (opened.received, opened.expected) == (0, 5)
    assert opened.error == "refused: HTTP/1.1 403 Forbidden"


def test_a_server_that_does_not_speak_websocket() -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: no\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener, Load(install=False) as load:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        load.add(listener.getsockname()[1])
        opened = load.connect(timeout_s=DEADLINE_S)
        thread.join()
    assert (opened.received, opened.error) == (0, "refused: HTTP/1.1 101 Switching Protocols")


def test_a_refused_connection_is_reported() -> None:
    with socket.socket() as reserved, Load(install=False) as load:
        reserved.bind(("127.0.0.1", 0))
        load.add(reserved.getsockname()[1])
        assert load.connect().error == "cannot connect: Connection refused"


def test_a_missing_greeting_times_out() -> None:
    dialect = Dialect(greeting=(Expect("welcome"),))
    with running(echo) as port, Load(dialect, install=False) as load:
        load.add(port)
        assert load.connect(timeout_s=0.1).error == "timed out"


def test_a_connection_closed_instead_of_a_greeting() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.close(4500)

    dialect = Dialect(greeting=(Expect("welcome"),))
    with running(handler) as port, Load(dialect, install=False) as load:
        load.add(port)
        assert load.connect().error == "closed with 4500 before it was ready"


def acting_on(what: Callable[[ServerConnection], object], path: str, after: int) -> Handler:
    """Return a room that calls a function with one connection after some messages."""
    connections: dict[str, ServerConnection] = {}

    def fault(number: int, text: str) -> list[str]:
        if number == after:
            what(connections[path])
        return [text]

    serve = room(fault)

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        connections[connection.request.path] = connection
        await serve(connection)

    return handler


def closing(path: str, after: int) -> Handler:
    """Return a room that closes one connection with 4008."""
    tasks: list[asyncio.Task[None]] = []
    return acting_on(
        lambda connection: tasks.append(asyncio.create_task(connection.close(4008))), path, after
    )


def reset(connection: ServerConnection) -> None:
    """Reset a connection; unsent and unread data is lost."""
    tcp = connection.transport.get_extra_info("socket")
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


def test_a_publisher_closed_meanwhile() -> None:
    with connected(closing("/0", after=10)) as load:
        delivered = load.fanout(1000, rate=1000, quiet_s=QUIET_S)
        assert load.ending(0) == "closed with 4008"
        assert load.ending(1) == "not closed"
    assert delivered.error == "the server closed a publisher's connection"
    assert delivered.closed == 1


def test_a_member_closed_meanwhile() -> None:
    with connected(closing("/3", after=10)) as load:
        delivered = load.fanout(100, rate=1000, quiet_s=QUIET_S)
        assert load.ending(3) == "closed with 4008"
    assert delivered.closed == 1
    assert 0 < delivered.missing <= 91
    assert delivered.complaint == f"{delivered.missing} missing; 1 closed"


def test_a_stalled_member_counts_after_it_resumes() -> None:
    with connected(room(), 5) as load:
        load.stall(4)
        assert load.fanout(100, window=8).received == 400
        load.stall(4, stalled=False)
        load.settle()
        delivered = load.fanout(10)
    assert (delivered.received, delivered.duplicates, delivered.late) == (50, 0, 0)


def test_a_stalled_member_is_reset() -> None:
    with connected(acting_on(reset, "/4", after=50), 5) as load:
        load.stall(4)
        delivered = load.fanout(100, window=8)
        wait_until(lambda: load.ending(4) != "not closed", reading(load))
        assert load.ending(4) == "reset (ECONNRESET)"
    assert (delivered.received, delivered.expected) == (400, 400)


def test_a_fragmented_message_is_an_error() -> None:
    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send([str(message)[:9], str(message)[9:]])

    with connected(handler, 1) as load:
        delivered = load.fanout(1, quiet_s=QUIET_S)
    assert "in several frames" in delivered.error


def test_an_attack_begins_with_a_burst() -> None:
    paths: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        while await connection.recv():
            paths.append(connection.request.path)

    with connected(handler, 3) as load:
        assert load.attack(rate=0, seconds=0.1, burst=30).sent == 30
        wait_until(lambda: len(paths) == 30, reading(load))
        assert Counter(paths) == {"/0": 10, "/1": 10, "/2": 10}
        assert all(each.sent <= 10 for each in attack_until(lambda: len(paths) > 30, load))
        wait_until(lambda: load.attack(rate=100, seconds=0.2, burst=30).sent > 30)


def test_an_attack_connects_again_what_the_server_closes() -> None:
    paths: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        await connection.recv()
        await connection.close(4013)

    with connected(handler, 2) as load:
        done = attack_until(lambda: min(map(paths.count, ("/0", "/1"))) > 2, load)
    assert sum(each.closed for each in done) >= 2


def test_an_attack_without_messages_repeats_handshakes() -> None:
    paths: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        paths.append(connection.request.path)
        await connection.wait_closed()

    with running(handler) as port, Load(install=False) as load:
        for _ in range(2):
            load.add(port, "/{i}")
        done = attack_until(lambda: min(map(paths.count, ("/0", "/1"))) > 2, load)
    assert {(each.closed, each.refused) for each in done} == {(0, 0)}


def test_each_attack_repeats_the_greeting() -> None:
    said: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            said.append(str(message))
            await connection.send("joined")

    dialect = Dialect(greeting=(Send("join {i} in {room}"), Expect("joined")), envelope="")
    with running(handler) as port, Load(dialect, install=False) as load:
        load.add(port)
        attack_until(lambda: len(said) >= 2, load)
    assert set(said) == {"join 0 in 0"}


def test_the_address_of_the_clients_and_a_part_of_a_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Load(install=False) as load:
        load.add(listener.getsockname()[1], source="127.0.0.2", request_bytes=10)
        load.attack(rate=1, seconds=0.1, burst=1)
        connection, (host, _) = listener.accept()
        with connection:
            assert connection.recv(100) == b"GET / HTTP"
    assert host == "127.0.0.2"


def test_frames_are_sent_as_they_are() -> None:
    pieces: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        pieces.extend([str(piece) async for piece in connection.recv_streaming()])
        await connection.wait_closed()

    fragments = b"\x01\x82\0\0\0\0he" + b"\x80\x83\0\0\0\0llo"
    with connected(handler, 1, dialect=Dialect(envelope=fragments)) as load:
        load.attack(rate=1, seconds=0.1, burst=1)
        wait_until(lambda: len(pieces) == 2, reading(load))
    assert pieces == ["he", "llo"]


def test_bytes_are_counted() -> None:
    with connected(echo, 1) as load:
        sent, received = load.bytes_sent, load.bytes_received
        load.echo(10)
        # A frame of the client has a mask of four bytes.
        assert load.bytes_sent - sent == 10 * (128 + 8)
        assert load.bytes_received - received == 10 * (128 + 4)


def test_a_slow_client_reads_little_at_once() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send("x" * 1_000_000)
        await connection.wait_closed()

    with running(handler) as port, Load(install=False) as load:
        load.slow()
        load.add(port)
        load.connect()
        received = [load.bytes_received]

        def read() -> None:
            load.idle(0)
            received.append(load.bytes_received)

        wait_until(lambda: received[-1] > 500_000, read)
    assert max(after - before for before, after in pairwise(received)) <= 16 * 1024
