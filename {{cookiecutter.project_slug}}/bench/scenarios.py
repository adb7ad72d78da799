"""What is measured: each scenario puts one kind of load on a server."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, perf_counter_ns, process_time
from typing import NamedTuple

from .clients import (
    BINARY,
    BLANK_STAMP,
    DUE_NS,
    END,
    PATIENCE_S,
    Client,
    Clients,
    Failure,
    Message,
    frame,
)
from .processes import Server

MESSAGES_PER_S = 100
WARM_UP = 0.1
"""The share of a measurement that does not count."""

UNREAD = 64
"""How many messages may wait for members that are not looked at all the time."""

SPIN_NS = 1_000_000
"""How long before a message is due to sleep no more: selectors sleep for whole milliseconds."""

# 128 bytes with the quotes.
DATA = b'"%b' + b"." * (126 - len(BLANK_STAMP)) + b'"'


class Outcome(NamedTuple):
    """What was measured, and which share of the time the client was busy."""

    figures: tuple[float, ...]
    busy: float


class Exchange(NamedTuple):
    """A command, and the answer, which the bare loop has to be told."""

    command: bytes
    answer: bytes
    to_all: bool = False

    def message(self, server: Server) -> Message:
        """Return what a client sends to this server."""
        if server.settings is not None:
            return Message(self.command % BLANK_STAMP)
        ready = frame(self.answer % BLANK_STAMP, masked=False)
        return Message(ready) if self.to_all else Message(ready, BINARY)


PING = Exchange(b'{"type":"ping","id":"%b"}', b'{"type":"pong","id":"%b"}')
BROADCAST = Exchange(
    b'{"type":"broadcast","echo":true,"data":' + DATA + b"}",
    b'{"type":"message","from":"alice","data":' + DATA + b',"to":"all"}',
    to_all=True,
)


class Stopwatch:
    """Measures time, and which share of it this process is busy."""

    def __init__(self) -> None:
        self._began_s, self._cpu_s = perf_counter(), process_time()

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return perf_counter() - self._began_s

    def per_second(self, count: int) -> Outcome:
        """Return how many of something there were in a second."""
        return Outcome((count / self.elapsed(),), self.busy())

    def busy(self) -> float:
        """Return the share of the time that was not spent waiting."""
        return (process_time() - self._cpu_s) / self.elapsed()


def repeat(step: Callable[[], int], seconds: float) -> Outcome:
    """Repeat a step, which returns a count of messages; return how many come in a second."""
    count, watch = 0, Stopwatch()
    with suppress(TimeoutError):  # `Clients.finish` tells what has not come
        while watch.elapsed() < seconds * WARM_UP:
            step()
        watch = Stopwatch()
        while watch.elapsed() < seconds:
            count += step()
    return watch.per_second(count)


def fan_out(
    server: Server,
    members: int,
    seconds: float,
    *,
    window: int,
    exchange: Exchange = BROADCAST,
    enter: Exchange | None = None,
) -> Outcome:
    """One member sends to all, a window of messages ahead of what has come back to it.

    It was the first to come, and servers write in that order, so they never wait for the client.
    The others are read less often, or the client would be slower than a server that joins messages.
    """
    with Clients() as clients:
        clients.open(server.connect_options(members))
        if enter is not None:
            clients.ask(enter.message(server))
        message, publisher = exchange.message(server), clients.members[0]
        publisher.socket.settimeout(PATIENCE_S)
        read_at = publisher.next

        def step() -> int:
            nonlocal read_at
            before = publisher.next
            numbers = range(publisher.asked, before + window)
            publisher.socket.sendall(b"".join(map(message.stamped, numbers)))
            publisher.asked = numbers.stop
            publisher.take(publisher.receive())
            if publisher.next >= read_at + UNREAD:
                read_at = publisher.next
                clients.read()
            return (publisher.next - before) * members

        outcome = repeat(step, seconds)
        for member in clients.members:
            member.asked = publisher.asked
        clients.finish(PING.message(server))
    return outcome


def echo(server: Server, members: int, seconds: float) -> Outcome:
    """Each connection asks for the next answer as soon as it has one."""
    with Clients() as clients:
        clients.open(server.connect_options(members))
        message = PING.message(server)
        for member in clients.members:
            member.ask(message)

        def step() -> int:
            answered = [member for member in clients.read() if member.next == member.asked]
            for member in answered:
                member.ask(message)
            return len(answered)

        outcome = repeat(step, seconds)
        clients.finish(message)
    return outcome


def latency(server: Server, members: int, seconds: float) -> Outcome:
    """One member sends to all whenever a message is due, whatever has become of the last one.

    Times count from when a message was due, so a server that is stuck cannot hide it.
    """
    count, interval_ns = round(seconds * MESSAGES_PER_S), 1_000_000_000 // MESSAGES_PER_S
    arrived: list[tuple[Client, bytes, int]] = []
    latencies_ms: list[float] = []
    with Clients() as clients:
        clients.open(server.connect_options(members))
        message, publisher = BROADCAST.message(server), clients.members[0]
        watch, began_ns = Stopwatch(), perf_counter_ns()
        while watch.elapsed() < seconds + PATIENCE_S:
            due_ns = began_ns + publisher.asked * interval_ns
            wait_ns = due_ns - perf_counter_ns()
            if wait_ns <= 0 and publisher.asked < count:
                publisher.socket.sendall(message.stamped(publisher.asked, due_ns))
                publisher.asked += 1
            ready = clients.ready(max(0, wait_ns - SPIN_NS) / 1e9)
            arrived += [(member, member.receive(), perf_counter_ns()) for member in ready]
            if ready:
                continue  # what came is looked at later, or the rest would have to wait for it
            for member, data, now_ns in arrived:
                stamps = [stamp for stamp in member.take(data).split(END) if stamp]
                latencies_ms += [(now_ns - int(stamp[DUE_NS])) / 1e6 for stamp in stamps]
            arrived.clear()
            if all(member.next == count for member in clients.members):
                break
        busy = watch.busy()
        for member in clients.members:
            member.asked = count
        clients.finish(PING.message(server))
    if len(latencies_ms) < count * members:
        msg = f"some messages took longer than {PATIENCE_S:g} s"
        raise Failure(msg)
    percentiles = quantiles(latencies_ms[round(len(latencies_ms) * WARM_UP) :], n=100)
    return Outcome((percentiles[49], percentiles[98]), busy)


def connects(server: Server, members: int, seconds: float) -> Outcome:
    """All connect at the same time, and leave, again and again. Leaving does not count."""
    outcomes: list[Outcome] = []
    since_start = Stopwatch()
    while not outcomes or since_start.elapsed() < seconds:
        options = server.connect_options(members)
        with Clients() as clients:
            watch = Stopwatch()
            clients.open(options)
            outcomes.append(watch.per_second(members))
            clients.finish(PING.message(server))
    figure = median(outcome.figures[0] for outcome in outcomes)
    return Outcome((figure,), median(outcome.busy for outcome in outcomes))


def memory(server: Server, members: int, seconds: float) -> Outcome:
    """Five times as many as elsewhere connect and do nothing, so that single pages do not count."""
    with Clients() as clients:
        clients.open(server.connect_options(1))  # what it costs is not what each one costs
        before_kib = resident_kib(server.pid)
        for _ in range(5):
            clients.open(server.connect_options(members))
        after_kib = resident_kib(server.pid)
        clients.finish(PING.message(server))
    if before_kib is None or after_kib is None:
        return Outcome((), 0)
    return Outcome(((after_kib - before_kib) / (5 * members),), 0)


def resident_kib(pid: int) -> float | None:
    """Return how much memory a process has in use, null where there is no /proc."""
    statm = Path(f"/proc/{pid}/statm")
    if not statm.exists():
        return None
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


class Scenario(NamedTuple):
    """A function that takes a server, a number of members and seconds, and what it returns."""

    name: str
    measure: Callable[[Server, int, float], Outcome]
    unit: str
    labels: tuple[str, ...]
    compared: bool = True
    """Whether the bare loop is measured, too."""


FAN_OUT = Scenario(
    "fan-out", partial(fan_out, window=16), "deliveries/s", ("fan-out to 100 members",)
)
ONE_AT_A_TIME = Scenario(
    "one-at-a-time", partial(fan_out, window=1), "deliveries/s", ("one message at a time",)
)
ECHO = Scenario("echo", echo, "answers/s", ("echo, 100 connections",))
LATENCY = Scenario(
    "latency",
    latency,
    "ms",
    ("latency at 100 messages/s, p50", "latency at 100 messages/s, p99"),
)
CONNECTS = Scenario("connects", connects, "connections/s", ("connects",))
MEMORY = Scenario("memory", memory, "KiB", ("memory per idle connection",), compared=False)
