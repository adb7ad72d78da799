"""The load generator: connections, their messages, and the results.

``load.c`` does the work; it needs Linux for epoll.
"""

import base64
import ctypes
import errno
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .compiler import LIBRARY, compiled

SOURCE = Path(__file__).with_name("load.c")

KEY = base64.b64encode(b"a load generator").decode()
ACCEPT = base64.b64encode(
    hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()  # noqa: S324
).decode()
"""The server's `Sec-WebSocket-Accept` for this key (RFC 6455 §4.2.2)."""

MARK = f"@T{'0' * 19}S{'0' * 10}@"

# These two are repeated in load.c.
SUB_BUCKETS = 64
BUCKETS = 64 * SUB_BUCKETS

NO_CLOSE_FRAME = 1006

NOT_CLOSED = "not closed"

LOCALHOST = "127.0.0.1"

ROOMS = 20


class _Result(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_double),
        ("busy", ctypes.c_double),
        ("sent", ctypes.c_uint64),
        ("expected", ctypes.c_uint64),
        ("received", ctypes.c_uint64),
        ("duplicates", ctypes.c_uint64),
        ("late", ctypes.c_uint64),
        ("other", ctypes.c_uint64),
        ("closed", ctypes.c_uint64),
        ("refused", ctypes.c_uint64),
        ("max_ns", ctypes.c_uint64),
        ("latency", ctypes.c_uint64 * BUCKETS),
        ("error", ctypes.c_char * 200),
    )


def _text(text: str) -> tuple[bytes, int]:
    data = text.encode()
    return data, len(data)


def _library(*, install: bool) -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled(SOURCE, *LIBRARY, install=install)))
    load, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    number, integer, real = ctypes.c_uint64, ctypes.c_int, ctypes.c_double
    result = ctypes.POINTER(_Result)
    library.load_new.restype = load
    for name, arguments in {
        "load_new": [text],
        "load_add": [load, integer, text, text, size],
        "load_step": [load, integer, integer, text, size],
        "load_message": [load, integer, integer, text, size],
        "load_answer": [load, text, size, text, size],
        "load_before": [load, integer, text, size],
        "load_connect": [load, integer, real, result],
        "load_fanout": [load, integer, number, number, integer, real, integer, real, real, result],
        "load_echo": [load, number, real, result],
        "load_attack": [load, number, real, real, result],
        "load_idle": [load, real],
        "load_patience": [load, integer],
        "load_slow": [load],
        "load_stall": [load, integer, integer],
        "load_close_code": [load, integer],
        "load_bytes_sent": [load],
        "load_bytes_received": [load],
        "load_free": [load],
    }.items():
        getattr(library, name).argtypes = arguments
    library.load_bytes_sent.restype = library.load_bytes_received.restype = number
    return library


@dataclass(frozen=True, slots=True)
class Expect:
    """Wait for a message that contains the text."""

    text: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send the text."""

    text: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """The messages of a server's protocol.

    ``{i}`` stands for the number of the connection, ``{room}`` for that of its room.
    """

    greeting: tuple[Expect | Send, ...] = ()
    """Steps after the upgrade, until the connection is ready."""
    envelope: str | bytes = "{data}"
    """The message that publishes ``{data}``; or frames, which are sent as they are."""
    asked: str = ""
    """Prefix of messages to answer, such as a heartbeat's ping."""
    answer: str = ""
    """The answer to them."""
    before: str = ""
    """A message that is sent before each ``envelope``."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run: deliveries of messages, or opened connections."""

    sent: int
    expected: int
    received: int
    """Deliveries, each counted once."""
    duplicates: int
    late: int
    """Deliveries out of order: after one of a later message."""
    closed: int
    """Connections that the server closed."""
    refused: int
    """Handshakes that failed."""
    seconds: float
    """From the first message sent to the last one received."""
    busy: float
    """The share of the time that the generator spent on events."""
    p50_ms: float
    p99_ms: float
    worst_ms: float
    error: str

    @property
    def missing(self) -> int:
        """The number of missing deliveries."""
        return self.expected - self.received

    @property
    def per_second(self) -> float:
        """Deliveries per second."""
        return self.received / self.seconds

    @property
    def complaint(self) -> str:
        """The errors of the run, empty without any."""
        counts = {
            "missing": self.missing,
            "twice": self.duplicates,
            "out of order": self.late,
            "closed": self.closed,
        }
        found = [f"{count:,} {fault}" for fault, count in counts.items() if count]
        return "; ".join([*filter(None, [self.error]), *found])


def payload(size: int) -> str:
    """Return a JSON object of this size, at least 50 bytes, that contains a mark."""
    empty = json.dumps({"m": MARK, "p": ""}, separators=(",", ":"))
    return json.dumps({"m": MARK, "p": "x" * (size - len(empty))}, separators=(",", ":"))


def quantile_ms(buckets: Sequence[int], share: float) -> float:
    """Return the quantile of the latency, within 1.6 %."""
    wanted = share * sum(buckets)
    seen = itertools.accumulate(buckets)
    bucket = next(number for number, count in enumerate(seen) if count >= wanted)
    if bucket < SUB_BUCKETS:
        return bucket / 1e6
    middle = bucket % SUB_BUCKETS + SUB_BUCKETS + 0.5
    return float(middle * 2 ** (bucket // SUB_BUCKETS - 1)) / 1e6


class Load:
    """WebSocket connections, driven by the calling thread."""

    def __init__(self, dialect: Dialect | None = None, *, install: bool = True) -> None:
        self._dialect = dialect or Dialect()
        self._library = _library(install=install)
        self._load = self._library.load_new(ACCEPT.encode())
        self._library.load_answer(
            self._load, *_text(self._dialect.asked), *_text(self._dialect.answer)
        )
        self._count = 0
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.load_free(self._load)

    def add(
        self,
        port: int,
        path: str = "/",
        headers: Callable[[int], dict[str, str]] | None = None,
        *,
        source: str = LOCALHOST,
        request_bytes: int | None = None,
    ) -> None:
        """Add a connection to a port of this machine, without opening it.

        It comes from ``source``, and sends ``request_bytes`` bytes of its handshake, or all.
        """
        number = self._count
        self._count += 1
        lines = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Version": "13",
        } | (headers(number) if headers else {})
        request = "".join(
            [f"GET {_fill(path, number)} HTTP/1.1\r\n"]
            + [f"{name}: {value}\r\n" for name, value in lines.items()]
            + ["\r\n"]
        )
        self._library.load_add(self._load, port, source.encode(), *_text(request[:request_bytes]))
        for step in self._dialect.greeting:
            text = _text(_fill(step.text, number))
            self._library.load_step(self._load, number, isinstance(step, Send), *text)
        before = _text(_fill(self._dialect.before, number))
        self._library.load_before(self._load, number, *before)

    def connect(self, *, handshakes: int = 32, timeout_s: float = 30) -> Result:
        """Open all connections, with at most ``handshakes`` handshakes in flight."""
        result = _Result()
        self._library.load_connect(self._load, handshakes, timeout_s, result)
        return _result(result)

    def publish(self, data: str) -> None:
        """Set the data that every connection publishes: JSON with a mark.

        Raises:
            ValueError: it has no mark.
        """
        envelope = self._dialect.envelope
        for number in range(self._count):
            if is_raw := isinstance(envelope, bytes):
                message = envelope
            else:
                message = _fill(envelope, number).replace("{data}", data).encode()
            if self._library.load_message(self._load, number, is_raw, message, len(message)):
                complaint = f"no mark in {message[:80].decode(errors='replace')}"
                raise ValueError(complaint)

    def fanout(
        self,
        count: int,
        *,
        window: int = 16,
        rate: float = 0,
        publishers: int = 1,
        own: bool = False,
        quiet_s: float = 5,
        timeout_s: float = 30,
    ) -> Result:
        """Publish in turn on the first connections.

        Every connection must get each message; with ``own``, only its sender.

        At most ``window`` messages are in flight, or else ``rate`` messages are due per second. The
        run ends when all have arrived, when none has arrived for ``quiet_s`` (0: no limit), or at
        the timeout.
        """
        result = _Result()
        self._library.load_fanout(
            self._load, publishers, self._sent, count, window, rate, own, quiet_s, timeout_s, result
        )
        self._sent += result.sent
        return _result(result, one_order=publishers == 1)

    def echo(self, rounds: int, *, timeout_s: float = 30) -> Result:
        """Send on each connection, wait for its own message, and repeat."""
        result = _Result()
        self._library.load_echo(self._load, rounds, timeout_s, result)
        return _result(result)

    def attack(self, rate: float, seconds: float, *, burst: int = 0) -> Result:
        """Send on the connections in turn: ``burst`` messages at once, then ``rate`` per second.

        A connection that the server has closed connects again. Without a message to publish, each
        connection disconnects and connects again instead.
        """
        result = _Result()
        self._library.load_attack(self._load, burst, rate, seconds, result)
        return _result(result)

    def idle(self, seconds: float) -> int:
        """Read, and answer pings; return the number of events."""
        return int(self._library.load_idle(self._load, seconds))

    def sleep(self) -> None:
        """Sleep when idle from now on, to leave the core to others: adds up to 1 ms of latency."""
        self._library.load_patience(self._load, 1)

    def slow(self) -> None:
        """Read at most 16 KiB at once, and buffer little, on connections that are not open yet."""
        self._library.load_slow(self._load)

    def settle(self, quiet_s: float = 0.1, timeout_s: float = 15) -> None:
        """Read until no message arrives for ``quiet_s``."""
        deadline = time.monotonic() + timeout_s
        while self.idle(quiet_s) and time.monotonic() < deadline:
            pass

    def stall(self, number: int, *, stalled: bool = True) -> None:
        """Stop reading from a connection as soon as it is ready, or resume."""
        self._library.load_stall(self._load, number, stalled)

    @property
    def bytes_sent(self) -> int:
        """The bytes that all connections have sent."""
        return int(self._library.load_bytes_sent(self._load))

    @property
    def bytes_received(self) -> int:
        """The bytes that all connections have read."""
        return int(self._library.load_bytes_received(self._load))

    def ending(self, number: int) -> str:
        """Describe how a connection ended."""
        code = self._library.load_close_code(self._load, number)
        if code == 0:
            return NOT_CLOSED
        if code == NO_CLOSE_FRAME:
            return "closed without a close frame"
        return f"closed with {code}" if code > 0 else f"reset ({errno.errorcode[-code]})"


def _fill(text: str, number: int) -> str:
    return text.replace("{i}", str(number)).replace("{room}", str(number % ROOMS))


def _result(result: _Result, *, one_order: bool = True) -> Result:
    buckets = list(result.latency)
    return Result(
        sent=result.sent,
        expected=result.expected,
        received=result.received,
        duplicates=result.duplicates,
        late=result.late if one_order else 0,
        closed=result.closed,
        refused=result.refused,
        seconds=result.seconds,
        busy=result.busy,
        p50_ms=quantile_ms(buckets, 0.50),
        p99_ms=quantile_ms(buckets, 0.99),
        worst_ms=result.max_ns / 1e6,
        error=result.error.decode(errors="replace"),
    )
