"""The measurement of honest clients beside hostile ones."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from .attacks import Attack
from .load import MARK, NOT_CLOSED, Dialect, Load, Result, payload
from .measurements import GROWTH, LOAD, P50, WORST, Measure, Trial
from .processes import Failed, memory_bytes
from .results import Metric, Sample
from .servers import authorization, redis_memory_bytes

HOSTILE_ADDRESS = "127.0.0.2"
HONEST_ADDRESS = "127.0.0.3"

HONEST_USERS = 99
"""Together with a hostile one, the most users of a room that still announces joins."""

FILLING = 200
"""Messages of 2 kB in the history that hostile clients have replayed."""

SLOW_READ_S = 1 / 16
"""How often the slow client reads 16 KiB: 256 KiB per second."""

CLOSED = Metric("others closed", more_is_better=False)
REDIS_GROWTH = Metric("MB grown in Redis", more_is_better=False, digits=1)
AMPLIFICATION = Metric("bytes out per byte in", more_is_better=False, digits=1)
CPU_PER_BYTE = Metric("CPU µs per byte in", more_is_better=False, digits=3)


def beside_hostile_clients(honest: int) -> Measure:
    """Measure a ping per second of each honest client, beside the attack of the subject.

    All loads share the generator's core, so the delays include their own. What the attack costs is
    reported without the cost of the pings, which is measured before.
    """

    def measure(trial: Trial) -> Sample:
        attack, seconds = trial.subject.attack, trial.effort.latency_s
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(2))
            others = stack.enter_context(_honest_clients(trial, attack.honest, honest))
            cpu_s_per_ping, bytes_per_ping = _cost_of_a_ping(trial, others, honest)
            memory = _memory(trial)
            slow = stack.enter_context(_slow_client(trial, attack.slow))
            hostile = stack.enter_context(_hostile_clients(trial, attack))
            clients = others, slow, hostile
            sent, received = hostile.bytes_sent, _bytes_received(clients)
            meter, begin = trial.meter(), time.monotonic()
            pinging = pool.submit(_ping, others, honest, seconds)
            reading = pool.submit(_read_slowly, slow, seconds)
            attacked = hostile.attack(attack.rate, seconds, burst=attack.burst)
            reading.result()
            pinged, spent = pinging.result(), meter.read()
            lasted_s, grown = time.monotonic() - begin, _growth(memory, _memory(trial))
            for number in range(attack.connections):
                hostile.stall(number, stalled=False)
            for each in clients:
                each.settle()
            bytes_in = hostile.bytes_sent - sent
            bytes_out = _bytes_received(clients) - received - bytes_per_ping * pinged.received
            remarks, closed = [*_remarks(pinged, attacked)], pinged.closed
            if attack.slow is not None:
                remarks.append(f"slow client: {slow.ending(0)}")
                closed += slow.ending(0) != NOT_CLOSED
        values = {P50: pinged.p50_ms, WORST: pinged.worst_ms, CLOSED: closed} | grown
        if bytes_in:
            values[AMPLIFICATION] = max(0.0, bytes_out) / bytes_in
        if spent.cpu_s is not None:
            values[LOAD] = 100 * spent.cpu_s / lasted_s
            if bytes_in:
                cpu_s = spent.cpu_s - cpu_s_per_ping * pinged.received
                values[CPU_PER_BYTE] = 1e6 * max(0.0, cpu_s) / bytes_in
        return Sample(values, "; ".join(remarks), foreign=spent.foreign)

    return measure


@contextmanager
def _honest_clients(trial: Trial, dialect: Dialect, count: int) -> Iterator[Load]:
    def headers(number: int) -> dict[str, str]:
        return authorization(number % HONEST_USERS)

    with trial.connected(count, dialect=dialect, source=HONEST_ADDRESS, headers=headers) as load:
        load.publish(json.dumps(MARK))
        load.sleep()
        yield load


@contextmanager
def _slow_client(trial: Trial, dialect: Dialect | None) -> Iterator[Load]:
    """Yield a client that reads slowly, or none without a dialect."""
    count = 0 if dialect is None else 1
    with trial.load(count, dialect=dialect, source=HONEST_ADDRESS) as load:
        load.slow()
        load.connect()
        load.settle()
        yield load


@contextmanager
def _hostile_clients(trial: Trial, attack: Attack) -> Iterator[Load]:
    """Yield the hostile clients, connected unless handshakes are the attack."""
    source, headers = HOSTILE_ADDRESS, attack.headers
    if attack.fills is not None:
        filling = trial.connected(1, dialect=attack.fills, source=source, headers=headers)
        with filling as load:
            load.publish(payload(2_000))
            load.fanout(FILLING, rate=50)
    if attack.repeats_handshakes:
        clients = trial.load(
            attack.connections,
            dialect=attack.dialect,
            source=source,
            headers=headers,
            request_bytes=attack.request_bytes,
        )
    else:
        clients = trial.connected(
            attack.connections, dialect=attack.dialect, source=source, headers=headers
        )
    with clients as load:
        load.sleep()
        if not attack.repeats_handshakes:
            load.publish(json.dumps(MARK))
        for number in range(0 if attack.reads else attack.connections):
            load.stall(number)
        yield load


def _ping(load: Load, clients: int, seconds: float) -> Result:
    """Let each client send a ping per second."""
    return load.fanout(int(clients * seconds), rate=clients, publishers=clients, own=True)


def _read_slowly(load: Load, seconds: float) -> None:
    for _ in range(int(seconds / SLOW_READ_S)):
        time.sleep(SLOW_READ_S)
        load.idle(0)


def _cost_of_a_ping(trial: Trial, load: Load, clients: int) -> tuple[float, float]:
    """Return the CPU time, and the bytes of the answer."""
    meter, received = trial.meter(), load.bytes_received
    pings = _ping(load, clients, trial.effort.warm_up_s).received
    if not pings:
        raise Failed("no ping was answered")
    return (meter.read().cpu_s or 0.0) / pings, (load.bytes_received - received) / pings


def _memory(trial: Trial) -> dict[Metric, int | None]:
    running = trial.running
    return {
        GROWTH: memory_bytes(running.pids),
        REDIS_GROWTH: redis_memory_bytes(running.redis_url) if running.redis_url else None,
    }


def _growth(
    before: dict[Metric, int | None], after: dict[Metric, int | None]
) -> dict[Metric, float | None]:
    return {
        metric: None if old is None or new is None else (new - old) / 1e6
        for (metric, old), new in zip(before.items(), after.values(), strict=True)
    }


def _bytes_received(clients: Sequence[Load]) -> int:
    return sum(load.bytes_received for load in clients)


def _remarks(pinged: Result, attacked: Result) -> Iterator[str]:
    if pinged.complaint:
        yield pinged.complaint
    if attacked.closed:
        yield "hostile clients were closed"
    if attacked.refused:
        yield f"hostile handshakes failed: {attacked.error}"
