"""The measurements: one function for each kind."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from .attacks import ALONE, Attack
from .load import LOCALHOST, MARK, Dialect, Load, Result, payload
from .processes import Failed, Meter, Spent, forget_peak, memory_bytes, pinned
from .results import Metric, Sample
from .servers import SERVICE_FILLED, SERVICE_PINGS, Running, Server, authorization

MESSAGE_BYTES = 128
LARGE_MESSAGE_BYTES = 4096
ENDLESS = 10_000_000
SLICES = 8

DELIVERIES = Metric("deliveries/s")
P50 = Metric("p50, ms", more_is_better=False, digits=2)
P99 = Metric("p99, ms", more_is_better=False, digits=2)
CPU = Metric("CPU s per million", more_is_better=False, digits=2)
ROUND_TRIPS = Metric("round trips/s")
CONNECTS = Metric("connects/s")
JOINS = Metric("joins/s")
MEMORY = Metric("KiB per connection", more_is_better=False, digits=1)
KEPT = Metric("% of the others' rate", digits=1)
GROWTH = Metric("MB grown", more_is_better=False, digits=1)
FLOOD = Metric("flood, deliveries/s")
BUSY = Metric("pongs/s of the others")
WORST = Metric("worst, ms", more_is_better=False, digits=2)
LOAD = Metric("% CPU", more_is_better=False, digits=1)


@dataclass(frozen=True, slots=True)
class Effort:
    """Durations and sizes of the measurements."""

    seconds: float
    warm_up_s: float
    latency_s: float
    slow_s: float
    connections: int
    repeats_s: float
    """Total time for repetitions."""
    every_server: bool


QUICK = Effort(0.7, 0.4, 1.5, 3.0, connections=2_000, repeats_s=15.0, every_server=False)
FULL = Effort(1.2, 0.5, 4.0, 8.0, connections=5_000, repeats_s=240.0, every_server=True)


@dataclass(frozen=True, slots=True)
class Subject:
    """One row of a scenario: a server, and its variations in this scenario."""

    server: Server
    name: str
    title: str
    dialect: Dialect | None = None
    publishers: int = 1
    flood: Dialect | None = None
    """The dialect of other clients, which flood a room meanwhile."""
    attack: Attack = ALONE


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of a subject."""

    running: Running
    subject: Subject
    effort: Effort
    generator_core: int | None

    @contextmanager
    def load(
        self,
        count: int,
        *,
        echo: bool = False,
        dialect: Dialect | None = None,
        process: int | None = None,
        headers: Callable[[int], dict[str, str]] | None = None,
        source: str = LOCALHOST,
        request_bytes: int | None = None,
    ) -> Iterator[Load]:
        """Yield connections that are not open yet, to one process or spread over all."""
        server, ports = self.subject.server, self.running.ports
        if process is not None:
            ports = [ports[process]]
        dialect = dialect or self.subject.dialect or (server.echo if echo else server.dialect)
        path = server.echo_path if echo else server.path
        with pinned(self.generator_core), Load(dialect) as load:
            for number in range(count):
                load.add(
                    ports[number * len(ports) // count],
                    path,
                    headers or server.headers,
                    source=source,
                    request_bytes=request_bytes,
                )
            yield load

    @contextmanager
    def connected(
        self,
        count: int,
        *,
        echo: bool = False,
        dialect: Dialect | None = None,
        process: int | None = None,
        headers: Callable[[int], dict[str, str]] | None = None,
        source: str = LOCALHOST,
        message_bytes: int = MESSAGE_BYTES,
    ) -> Iterator[Load]:
        """Yield open connections with a message to publish.

        Raises:
            Failed: a connection cannot be opened.
        """
        with self.load(
            count, echo=echo, dialect=dialect, process=process, headers=headers, source=source
        ) as load:
            connected = load.connect()
            if connected.missing:
                message = f"{connected.received} of {count} connect: {connected.error}"
                raise Failed(message)
            load.publish(payload(message_bytes))
            load.settle()
            yield load

    def meter(self) -> Meter:
        """Return a meter of the server's CPU time from now on."""
        return Meter(self.running.pids, self.running.core)


Measure = Callable[[Trial], Sample]


def _sample(result: Result, spent: Spent, values: dict[Metric, float | None]) -> Sample:
    if result.received and spent.cpu_s is not None:
        values[CPU] = spent.cpu_s / result.received * 1e6
    return Sample(values, result.complaint, result.busy, spent.foreign)


def _pace(warm_up: Result, connections: int) -> float:
    """Return the deliveries per second and connection."""
    if not warm_up.received:
        message = f"delivers nothing: {warm_up.error or 'no error reported'}"
        raise Failed(message)
    return warm_up.per_second / connections


def fanout(members: int, window: int) -> Measure:
    """Measure deliveries with at most ``window`` messages in flight."""

    def measure(trial: Trial) -> Sample:
        effort, publishers = trial.effort, trial.subject.publishers
        with trial.connected(members) as load:
            warm_up = load.fanout(
                ENDLESS, window=window, publishers=publishers, timeout_s=effort.warm_up_s
            )
            load.settle()
            count = max(20, int(_pace(warm_up, members) * effort.seconds))
            meter = trial.meter()
            result = load.fanout(
                count, window=window, publishers=publishers, timeout_s=10 * effort.seconds
            )
            return _sample(result, meter.read(), {DELIVERIES: result.per_second})

    return measure


def latency(members: int, rate: float) -> Measure:
    """Measure the latency of deliveries at a fixed rate of messages per second."""

    def measure(trial: Trial) -> Sample:
        seconds = trial.effort.latency_s
        with trial.connected(members) as load:
            load.fanout(int(rate * trial.effort.warm_up_s), rate=rate)
            load.settle()
            meter = trial.meter()
            result = load.fanout(int(rate * seconds), rate=rate, timeout_s=2 * seconds + 5)
            return _sample(result, meter.read(), {P99: result.p99_ms, P50: result.p50_ms})

    return measure


def streams(rooms: int, rate: float) -> Measure:
    """Measure the cost of rooms whose only member publishes ``rate`` messages per second."""

    def measure(trial: Trial) -> Sample:
        effort, total = trial.effort, rooms * rate
        with trial.connected(rooms) as load:
            load.sleep()
            load.fanout(int(total * effort.warm_up_s), rate=total, publishers=rooms, own=True)
            load.settle()
            meter = trial.meter()
            count = int(total * effort.latency_s)
            result = load.fanout(count, rate=total, publishers=rooms, own=True)
            spent = meter.read()
            cpu = None if spent.cpu_s is None else 100 * spent.cpu_s / result.seconds
            values = {LOAD: cpu, DELIVERIES: result.per_second, P99: result.p99_ms}
            return Sample(values, result.complaint, result.busy, spent.foreign)

    return measure


def echo(connections: int) -> Measure:
    """Measure round trips of messages that connections send to themselves."""

    def measure(trial: Trial) -> Sample:
        with trial.connected(connections, echo=True) as load:
            pace = _pace(load.echo(50), connections)
            pace = _pace(load.echo(max(20, int(pace * trial.effort.warm_up_s))), connections)
            meter = trial.meter()
            result = load.echo(max(20, int(pace * trial.effort.seconds)))
            return _sample(result, meter.read(), {ROUND_TRIPS: result.per_second})

    return measure


def joins(members: int) -> Measure:
    """Measure how often clients leave and join a room that has messages."""

    def measure(trial: Trial) -> Sample:
        with trial.connected(1, dialect=SERVICE_FILLED):
            pass
        with trial.connected(members) as load:
            load.publish(json.dumps(MARK))
            pace = _pace(load.echo(5), members)
            meter = trial.meter()
            result = load.echo(max(5, int(pace * trial.effort.seconds)))
            return _sample(result, meter.read(), {JOINS: result.per_second})

    return measure


def connect(trial: Trial) -> Sample:
    """Measure how fast connections open, with 32 handshakes in flight."""
    with trial.connected(200):
        pass
    with trial.load(trial.effort.connections) as load:
        meter = trial.meter()
        result = load.connect()
        return _sample(result, meter.read(), {CONNECTS: result.per_second})


def memory(trial: Trial) -> Sample:
    """Measure the resident memory of an idle connection."""
    # Only a few: later connections reuse the memory that these free, and the difference lacks it.
    with trial.connected(10):
        pass
    time.sleep(0.3)
    before = memory_bytes(trial.running.pids)
    with trial.connected(trial.effort.connections) as load:
        load.idle(1.0)
        after = memory_bytes(trial.running.pids)
    if before is None or after is None:
        message = "/proc does not report memory on this system"
        raise Failed(message)
    return Sample({MEMORY: (after - before) / trial.effort.connections / 1024})


def slow_consumer(members: int) -> Measure:
    """Measure the effect on the others of one member that stops reading.

    A second process serves as many members that all read. The two are measured in turn, since the
    speed of the processor changes more within seconds than the measured effect.
    """

    def measure(trial: Trial) -> Sample:
        half_s, stalled, pids = trial.effort.slow_s / 2, members - 1, trial.running.pids[:1]
        with ExitStack() as stack:
            load, calm = (
                stack.enter_context(
                    trial.connected(members, process=number, message_bytes=LARGE_MESSAGE_BYTES)
                )
                for number in range(2)
            )
            for each in (load, calm):
                _pace(each.fanout(ENDLESS, timeout_s=trial.effort.warm_up_s), members)
                each.settle()
            load.stall(stalled)
            forget_peak(pids)
            before = memory_bytes(pids)
            # Fill the socket buffers first: until then, the server does not notice the slow member.
            result = load.fanout(ENDLESS, quiet_s=0, timeout_s=half_s)
            slice_s = half_s / SLICES
            rates = [
                (_rate(load, members - 1, slice_s), _rate(calm, members, slice_s))
                for _ in range(SLICES)
            ]
            peak = memory_bytes(pids, peak=True)
            load.stall(stalled, stalled=False)
            load.settle(0.5, timeout_s=5)
            if not all(calm_rate for _, calm_rate in rates):
                message = "delivers nothing even without a slow member"
                raise Failed(message)
            kept = median(rate / calm_rate for rate, calm_rate in rates)
            growth = None if before is None or peak is None else (peak - before) / 1e6
            remark = f"slow member: {load.ending(stalled)}"
            remarks = "; ".join(filter(None, [remark, result.error]))
            return Sample({KEPT: 100 * kept, GROWTH: growth}, remarks, result.busy)

    return measure


def _rate(load: Load, readers: int, seconds: float) -> float:
    """Return the deliveries per second and reader during some seconds."""
    received = load.fanout(ENDLESS, quiet_s=0, timeout_s=seconds).received
    load.settle(0.05)
    return received / readers / seconds


def bystanders(members: int, rate: float, *, flooded: int) -> Measure:
    """Measure latency during a flood to other members, if the subject has one.

    Both loads share the generator's core, so the delays include their own.
    """

    def measure(trial: Trial) -> Sample:
        with trial.connected(members) as load, ExitStack() as stack:
            load.sleep()
            flooding = None
            if trial.subject.flood is not None:
                flood = stack.enter_context(trial.connected(flooded, dialect=trial.subject.flood))
                pool = stack.enter_context(ThreadPoolExecutor(1))
                seconds = trial.effort.latency_s + 2 * trial.effort.warm_up_s
                flooding = pool.submit(flood.fanout, ENDLESS, publishers=20, timeout_s=seconds)
                load.fanout(int(rate * trial.effort.warm_up_s), rate=rate)
            result = load.fanout(int(rate * trial.effort.latency_s), rate=rate)
            per_second = None if flooding is None else flooding.result().per_second
            values = {P99: result.p99_ms, P50: result.p50_ms, FLOOD: per_second}
            return Sample(values, result.complaint)

    return measure


def among_busy_clients(members: int, rate: float, *, others: int, pings: float) -> Measure:
    """Measure latency in a room while each of the others sends ``pings`` pings per second.

    Each client is a user of its own. Both loads share the generator's core, so the delays include
    their own.
    """

    def other_users(number: int) -> dict[str, str]:
        return authorization(members + number)

    def measure(trial: Trial) -> Sample:
        with (
            trial.connected(members) as load,
            trial.connected(others, dialect=SERVICE_PINGS, headers=other_users) as busy,
            ThreadPoolExecutor(1) as pool,
        ):
            busy.publish(json.dumps(MARK))
            load.sleep()
            seconds = trial.effort.latency_s + 2 * trial.effort.warm_up_s
            pinging = pool.submit(
                busy.fanout, ENDLESS, rate=others * pings, publishers=others, timeout_s=seconds
            )
            load.fanout(int(rate * trial.effort.warm_up_s), rate=rate)
            result = load.fanout(int(rate * trial.effort.latency_s), rate=rate)
            values = {P50: result.p50_ms, P99: result.p99_ms, BUSY: pinging.result().per_second}
            return Sample(values, result.complaint)

    return measure
