"""The scenarios: measurement, servers, and targets of the service."""

from collections.abc import Callable
from dataclasses import dataclass

from proof.project import Answers

from .attacks import (
    ALONE,
    BAD_HANDSHAKES,
    BRACKETS,
    CONTROL_FRAMES,
    FLOODS,
    FRAGMENTATION,
    HALF_HANDSHAKES,
    HANDSHAKES,
    IDLE,
    IN_ROOMS,
    NESTED,
    NUMBERS,
    PINGS,
    PRESENCE,
    REPLAYS,
    SLOW_VICTIM,
    STORM,
    SURPLUS_KEYS,
    UNREAD,
    VICTIM,
    Attack,
    of_address,
)
from .hostile import AMPLIFICATION, CLOSED, CPU_PER_BYTE, REDIS_GROWTH, beside_hostile_clients
from .measurements import (
    BUSY,
    CONNECTS,
    CPU,
    DELIVERIES,
    FLOOD,
    GROWTH,
    JOINS,
    KEPT,
    LOAD,
    MEMORY,
    P50,
    P99,
    ROUND_TRIPS,
    WORST,
    Subject,
    Trial,
    among_busy_clients,
    bystanders,
    connect,
    echo,
    fanout,
    joins,
    latency,
    memory,
    slow_consumer,
    streams,
)
from .results import Metric, Sample, Target
from .servers import (
    BROADCASTER,
    C_LOOP,
    CHANNELS,
    LITESTAR,
    MANAGER,
    MANAGER_ONCE,
    MANAGER_REDIS,
    NODE_SOCKETIO,
    NODE_WS,
    SERVICE_EPHEMERAL,
    SERVICE_FLOOD,
    SERVICE_JOINS,
    SERVICE_JOINS_WITH_LAST,
    SERVICE_ROOM,
    SERVICE_STREAMS,
    SOCKETIO,
    THIS,
    THIS_LIMITED,
    THIS_LIMITED_EXCEPT_HANDSHAKES,
    THIS_TWICE,
    WEBSOCKETS,
    Server,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A measurement on several subjects. The first subject is the service."""

    name: str
    title: str
    description: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Trial], Sample]
    subjects: tuple[Subject, ...]
    targets: tuple[Target, ...]
    only_full: tuple[Subject, ...] = ()
    rounds: tuple[int, int] = (3, 5)
    """Rounds in a quick run, and in a full run."""
    processes: int = 1
    pinned: bool = True
    """Whether the servers share one core, instead of using all cores of the system."""
    fresh: bool = False
    """Whether each measurement needs new processes."""
    redis: bool = False
    plotted: bool = True


def fits(scenario: Scenario, answers: Answers) -> bool:
    """Return whether a project with these answers supports the scenario."""
    dialects = {SERVICE_ROOM, SERVICE_FLOOD, SERVICE_STREAMS, SERVICE_JOINS}
    rooms = any(each.attack is not ALONE or each.dialect in dialects for each in scenario.subjects)
    return bool((answers["rooms"] or not rooms) and (answers["redis"] or not scenario.redis))


def _subjects(*servers: Server) -> tuple[Subject, ...]:
    return tuple(Subject(server, server.name, server.title) for server in servers)


def _beside(
    name: str, title: str, attacks: tuple[Attack, ...], redis_mb: float | None = None
) -> Scenario:
    """Return a scenario of honest clients beside attacks."""
    limits = {P50: 50, WORST: 500, CLOSED: 0, GROWTH: 64} | (
        {} if redis_mb is None else {REDIS_GROWTH: redis_mb}
    )
    return Scenario(
        name,
        title,
        "100 clients send a ping per second each, beside hostile clients that do all that the "
        "limits allow: a user with 20 connections, or an address with 500, of 25 users. Bytes and "
        "CPU time are those of the attack. All clients share the generator's core, and wait for "
        "it. A slow client reads 256 KiB per second.",
        (*limits, LOAD, AMPLIFICATION, CPU_PER_BYTE),
        beside_hostile_clients(100),
        tuple(
            Subject(
                THIS_LIMITED if attack.repeats_handshakes else THIS_LIMITED_EXCEPT_HANDSHAKES,
                attack.name,
                attack.title,
                attack=attack,
            )
            for attack in (ALONE, *attacks)
        ),
        tuple(Target(metric, at_most=at_most, by_all=True) for metric, at_most in limits.items()),
        rounds=(1, 2),
        redis=redis_mb is not None,
        fresh=True,
        plotted=False,
    )


MORE = (WEBSOCKETS, MANAGER_ONCE, LITESTAR, BROADCASTER, SOCKETIO, NODE_SOCKETIO, CHANNELS)

SCENARIOS = (
    Scenario(
        "fanout",
        "Fan-out to 100",
        "One of 100 members publishes, with 16 messages in flight.",
        (DELIVERIES, CPU),
        fanout(100, window=16),
        _subjects(THIS, MANAGER, NODE_WS, C_LOOP),
        (
            Target(DELIVERIES, at_least=12, beside="manager"),
            Target(DELIVERIES, at_least=6, beside="node-ws"),
            Target(DELIVERIES, at_least=4, beside="c-loop"),
        ),
        only_full=_subjects(*MORE),
    ),
    Scenario(
        "room",
        "Fan-out to 100 in a room",
        "As above, with `publish` to a room with history instead of `broadcast`.",
        (DELIVERIES, CPU),
        fanout(100, window=16),
        (
            Subject(THIS, "room", "in a room", SERVICE_ROOM),
            Subject(THIS, "everybody", "broadcast"),
        ),
        (Target(DELIVERIES, at_least=0.8, beside="everybody"),),
        plotted=False,
    ),
    Scenario(
        "one-by-one",
        "Fan-out to 100, one message at a time",
        "Each message is published after every member has received the one before.",
        (DELIVERIES, CPU),
        fanout(100, window=1),
        _subjects(THIS, MANAGER, NODE_WS, C_LOOP),
        (
            Target(DELIVERIES, at_least=0.7, beside="c-loop"),
            Target(DELIVERIES, at_least=1.1, beside="node-ws"),
        ),
    ),
    Scenario(
        "fanout-1000",
        "Fan-out to 1,000",
        "One of 1,000 members publishes, with 16 messages in flight.",
        (DELIVERIES, CPU),
        fanout(1000, window=16),
        _subjects(THIS, MANAGER),
        (Target(DELIVERIES, at_least=15, beside="manager"),),
        only_full=_subjects(NODE_WS, C_LOOP),
        rounds=(2, 3),
    ),
    Scenario(
        "publishers",
        "20 publishers",
        "20 of 100 members publish in turn, with 16 messages in flight.",
        (DELIVERIES, CPU),
        fanout(100, window=16),
        (
            Subject(THIS, "twenty", "20 publishers", publishers=20),
            Subject(THIS, "one", "1 publisher"),
        ),
        (Target(DELIVERIES, at_least=0.8, beside="one"),),
        plotted=False,
    ),
    Scenario(
        "latency",
        "Latency, 99th percentile",
        "100 messages per second to 100 members, each with its due time.",
        (P99, P50, CPU),
        latency(100, rate=100),
        _subjects(THIS, MANAGER, NODE_WS, C_LOOP),
        (
            Target(P99, at_most=1.8, beside="c-loop"),
            *(Target(P99, at_most=1, beside=each.name) for each in (MANAGER, NODE_WS, *MORE)),
        ),
        only_full=_subjects(*MORE),
        rounds=(2, 5),
    ),
    Scenario(
        "fairness",
        "Latency during a flood",
        "100 messages per second to a room with 10 members, while 20 of 1,000 members of another "
        "room publish with 16 messages in flight. Both loads share the generator's core, and wait "
        "for it.",
        (P99, P50, FLOOD),
        bystanders(10, rate=100, flooded=1_000),
        (
            Subject(THIS, "flooded", "during a flood", SERVICE_ROOM, flood=SERVICE_FLOOD),
            Subject(THIS, "alone", "without a flood", SERVICE_ROOM),
        ),
        (Target(P99, at_most=30),),
        rounds=(1, 3),
        plotted=False,
    ),
    Scenario(
        "echo",
        "Echo",
        "Each of 100 connections sends a message to itself and waits for it. The service validates "
        "the message and delivers it to the user by name; the others return it.",
        (ROUND_TRIPS, CPU),
        echo(100),
        _subjects(THIS, MANAGER, C_LOOP),
        (Target(ROUND_TRIPS, at_least=1.2, beside="manager"),),
        only_full=_subjects(NODE_WS, WEBSOCKETS, LITESTAR),
        rounds=(3, 5),
    ),
    Scenario(
        "connect",
        "Connecting",
        "32 handshakes are in flight. The service verifies a token and must send `welcome`; the "
        "others accept every client.",
        (CONNECTS,),
        connect,
        _subjects(THIS, MANAGER),
        (Target(CONNECTS, at_least=1.3, beside="manager"),),
        only_full=_subjects(NODE_WS, WEBSOCKETS),
        rounds=(2, 3),
    ),
    Scenario(
        "memory",
        "Memory of an idle connection",
        "The growth of resident memory, divided by the number of connections.",
        (MEMORY,),
        memory,
        _subjects(THIS, MANAGER, WEBSOCKETS),
        (Target(MEMORY, at_most=24),),
        only_full=_subjects(NODE_WS),
        rounds=(1, 2),
        fresh=True,
    ),
    Scenario(
        "redis",
        "Two processes through Redis",
        "50 members on each process; the two processes share the servers' core.",
        (DELIVERIES, CPU),
        fanout(100, window=16),
        _subjects(THIS, MANAGER_REDIS),
        (Target(DELIVERIES, at_least=8, beside="manager-redis"),),
        rounds=(2, 3),
        processes=2,
        redis=True,
    ),
    Scenario(
        "redis-room",
        "Two processes through Redis, in a room",
        "As above, with `publish` to a room, whose history is in Redis.",
        (DELIVERIES, CPU),
        fanout(100, window=16),
        (Subject(THIS, THIS.name, THIS.title, SERVICE_ROOM), *_subjects(MANAGER_REDIS)),
        (Target(DELIVERIES, at_least=8, beside="manager-redis"),),
        rounds=(2, 3),
        processes=2,
        redis=True,
        plotted=False,
    ),
    Scenario(
        "workers",
        "Several processes on one port",
        "20 of 1,000 members publish in turn, with 16 messages in flight. The processes are not "
        "pinned: they have all cores, of which the generator and Redis use up to two.",
        (DELIVERIES, CPU),
        fanout(1000, window=16),
        (
            Subject(THIS_TWICE, THIS_TWICE.name, THIS_TWICE.title, publishers=20),
            Subject(THIS, THIS.name, "1 process", publishers=20),
        ),
        (Target(DELIVERIES, at_least=1.2, beside=THIS.name),),
        rounds=(2, 3),
        pinned=False,
        redis=True,
        plotted=False,
    ),
    *(
        Scenario(
            name,
            title,
            "One of 2 members publishes with `keep: false`, with 16 messages in flight.",
            (DELIVERIES, CPU),
            fanout(2, window=16),
            (
                Subject(THIS, "ephemeral", "not kept", SERVICE_EPHEMERAL),
                Subject(THIS, "kept", "kept", SERVICE_ROOM),
            ),
            (Target(DELIVERIES, at_least=at_least, beside="kept"),),
            processes=processes,
            redis=processes > 1,
            plotted=False,
        )
        for name, title, processes, at_least in (
            ("ephemeral", "Messages that are not kept", 1, 0.9),
            ("redis-ephemeral", "Messages that are not kept, two processes through Redis", 2, 1),
        )
    ),
    *(
        Scenario(
            name,
            title,
            "Each of 200 clients leaves a room of 50 messages and joins it again, each time when "
            "the answer to the last `join` has come.",
            (JOINS, CPU),
            joins(200),
            (
                Subject(THIS, "last", "with `last: 50`", SERVICE_JOINS_WITH_LAST),
                Subject(THIS, "plain", "without", SERVICE_JOINS),
            ),
            (Target(JOINS, at_least=at_least, beside="plain"),),
            redis=redis,
            plotted=False,
        )
        for name, title, redis, at_least in (
            ("joins", "Joining a room", False, 0.5),
            ("redis-joins", "Joining a room, with Redis", True, 0.05),
        )
    ),
    *(
        Scenario(
            name,
            title,
            "To each of 100 rooms, its member publishes 100 messages per second and gets them, as "
            "the tokens of a language model. They are kept in the history of the room.",
            (LOAD, DELIVERIES, P99),
            streams(100, rate=100),
            (Subject(THIS, THIS.name, THIS.title, SERVICE_STREAMS),),
            (Target(DELIVERIES, at_least=9_900), Target(LOAD, at_most=100)),
            rounds=(1, 3),
            redis=redis,
            plotted=False,
        )
        for name, title, redis in (
            ("streams", "100 streams of 100 tokens per second", False),
            ("redis-streams", "100 streams of 100 tokens per second, with Redis", True),
        )
    ),
    *(
        Scenario(
            f"redis-busy-{others}",
            f"Latency in a room with {others:,} busy clients elsewhere, with Redis",
            f"20 messages per second to a room with 2 members, while {others:,} other clients send "
            "30 pings per second each. Both loads share the generator's core, and wait for it.",
            (P50, P99, BUSY),
            among_busy_clients(2, rate=20, others=others, pings=30),
            (Subject(THIS, THIS.name, THIS.title, SERVICE_ROOM),),
            (Target(P50, at_most=100),),
            rounds=(1, 3),
            redis=True,
            plotted=False,
        )
        for others in (1_000, 2_000)
    ),
    _beside(
        "hostile",
        "Beside a hostile user",
        (
            *(PINGS, CONTROL_FRAMES, FRAGMENTATION, SURPLUS_KEYS, NUMBERS, BRACKETS, NESTED),
            *(UNREAD, REPLAYS, STORM, IN_ROOMS, SLOW_VICTIM, FLOODS),
        ),
    ),
    _beside(
        "hostile-redis",
        "Beside a hostile user, with Redis",
        (REPLAYS, PRESENCE, STORM, VICTIM, IN_ROOMS),
        redis_mb=8.4,
    ),
    _beside(
        "hostile-address",
        "Beside a hostile address",
        (
            *map(of_address, (PINGS, CONTROL_FRAMES, FRAGMENTATION, SURPLUS_KEYS, NUMBERS)),
            *map(of_address, (BRACKETS, NESTED, UNREAD, REPLAYS, STORM, IN_ROOMS)),
            *(HANDSHAKES, BAD_HANDSHAKES, HALF_HANDSHAKES, IDLE),
        ),
    ),
    _beside(
        "hostile-address-redis",
        "Beside a hostile address, with Redis",
        (*map(of_address, (REPLAYS, PRESENCE, STORM, VICTIM, IN_ROOMS)), HANDSHAKES),
        redis_mb=67.1,
    ),
    Scenario(
        "slow",
        "Beside a slow consumer",
        "1 of 20 members stops reading messages of 4 KiB. The rate of the other members is "
        "compared with that on a second process whose members all read.",
        (KEPT, GROWTH),
        slow_consumer(20),
        _subjects(THIS, MANAGER),
        (Target(KEPT, at_least=95), Target(GROWTH, at_most=5)),
        only_full=_subjects(NODE_WS, *MORE),
        rounds=(1, 3),
        processes=2,
        fresh=True,
    ),
)
