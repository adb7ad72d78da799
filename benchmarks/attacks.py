"""What hostile clients do, as often and as much as the limits allow."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from .load import MARK, ROOMS, Dialect, Expect, Send
from .servers import SERVICE, SERVICE_PINGS, authorization_of, room

CONNECTIONS_PER_USER = 20
CONNECTIONS_PER_ADDRESS = 500
MESSAGES_PER_S_PER_USER = 400
BURST_S = 5
"""These four equal the defaults of the service's limits."""

CONTINUATION, TEXT, PING = 0, 1, 9
"""Opcodes (RFC 6455 §5.2)."""


def bad_authorization(_: int) -> dict[str, str]:
    """Return a header with a token whose signature is wrong."""
    header = authorization_of("hostile")
    return {name: f"{value[:-10]}{'A' * 10}" for name, value in header.items()}


def hostile_authorization(number: int) -> dict[str, str]:
    """Return a header with a token for the user that 20 connections share."""
    return authorization_of(f"hostile-{number // CONNECTIONS_PER_USER}")


@dataclass(frozen=True, slots=True)
class Attack:
    """Hostile clients. Each repeats its dialect's message, or else its handshake."""

    name: str
    title: str
    dialect: Dialect
    rate: float = MESSAGES_PER_S_PER_USER
    """Messages or handshakes of all connections per second."""
    burst: int = MESSAGES_PER_S_PER_USER * BURST_S
    """Messages sent at once, at the beginning."""
    connections: int = CONNECTIONS_PER_USER
    reads: bool = True
    fills: Dialect | None = None
    """The dialect by which one of them fills a history before the attack."""
    honest: Dialect = SERVICE_PINGS
    """The dialect of the honest clients."""
    slow: Dialect | None = None
    """The dialect of an honest client that reads slowly, if there is one."""
    headers: Callable[[int], dict[str, str]] = hostile_authorization
    request_bytes: int | None = None
    """How many bytes of the handshake are sent; None for all."""

    @property
    def repeats_handshakes(self) -> bool:
        """Whether it repeats handshakes, since its dialect has no message."""
        return not self.dialect.envelope


def of_address(attack: Attack) -> Attack:
    """Return the attack by as many users as an address has connections for."""
    users = CONNECTIONS_PER_ADDRESS // CONNECTIONS_PER_USER
    return replace(
        attack,
        connections=CONNECTIONS_PER_ADDRESS,
        rate=users * attack.rate,
        burst=users * attack.burst,
    )


def frame(payload: bytes, opcode: int, *, final: bool = True) -> bytes:
    """Return a client's frame of up to 125 bytes; its mask of zeros leaves the payload as it is."""
    return bytes([final << 7 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def fragmented(text: str, size: int) -> bytes:
    """Return a message in fragments of a size."""
    parts = [text[at : at + size].encode() for at in range(0, len(text), size)]
    return b"".join(
        frame(part, CONTINUATION if number else TEXT, final=number == len(parts) - 1)
        for number, part in enumerate(parts)
    )


def _joined(name: str, fields: str) -> Dialect:
    """Return a dialect whose clients join a room, and repeat a command with these fields."""
    return replace(room(name), envelope='{"id":{data},' + fields + "}")


def _publishing(name: str, data: str) -> Dialect:
    return _joined(name, f'"type":"publish","room":"{name}","echo":true,"data":{data}')


def _in_all_rooms(dialect: Dialect) -> Dialect:
    joins = (
        (
            Send(json.dumps({"type": "join", "room": f"hostile-{number}", "id": "in"})),
            Expect('"in"'),
        )
        for number in range(ROOMS)
    )
    return replace(dialect, greeting=sum(joins, dialect.greeting))


LONG = json.dumps("x" * 2_000)
GUEST = replace(SERVICE, envelope="")
SURPLUS = ",".join(f'"surplus-{number}":0' for number in range(300))
IN_ALL_ROOMS = _in_all_rooms(SERVICE_PINGS)
FRAGMENT_BYTES = 5
FRAGMENTED = fragmented(json.dumps({"type": "ping", "id": MARK}), FRAGMENT_BYTES)
FRAGMENTS = FRAGMENTED.count(b"\x85") + 1

ALONE = Attack("alone", "alone", GUEST, rate=0, burst=0, connections=0)
PINGS = Attack("pings", "pings", _joined("hostile", '"type":"ping"'))
CONTROL_FRAMES = Attack(
    "control-frames",
    "pings of the WebSocket protocol",
    replace(SERVICE, envelope=frame(MARK.encode(), PING)),
)
FRAGMENTATION = Attack(
    "fragments",
    f"messages in {FRAGMENTS} fragments",
    replace(SERVICE, envelope=FRAGMENTED),
    rate=PINGS.rate / (FRAGMENTS + 1),
    burst=PINGS.burst // (FRAGMENTS + 1),
)
FLOODS = replace(
    PINGS,
    name="floods",
    title="pings beyond all limits, and new connections",
    rate=10 * PINGS.rate,
    burst=20 * PINGS.burst,
)
SURPLUS_KEYS = Attack(
    "surplus-keys",
    "300 surplus keys",
    # A valid message resets the count of errors in a row.
    replace(_joined("hostile", f'"type":"ping",{SURPLUS}'), before='{"type":"ping"}'),
    rate=PINGS.rate / 2,
    burst=PINGS.burst // 2,
)
NUMBERS = Attack(
    "numbers",
    "numbers that grow when written out",
    _publishing("hostile", f"[{','.join(['1e15'] * 400)}]"),
)
BRACKETS = Attack("brackets", "many small arrays", _publishing("hostile", json.dumps([[]] * 2_000)))
NESTED = Attack(
    "nested",
    "arrays in arrays",
    _publishing("hostile", f"[{','.join(['[' * 90 + ']' * 90] * 5)}]"),
)
UNREAD = Attack(
    "unread", "messages that it does not read", _publishing("hostile", LONG), reads=False
)
REPLAYS = Attack(
    "replays",
    "replays",
    replace(
        _joined("hostile", '"type":"join","room":"hostile","last":200'),
        before='{"type":"leave","room":"hostile"}',  # a member gets no replay
    ),
    rate=PINGS.rate / 2,
    burst=PINGS.burst // 2,
    fills=room("hostile"),
)
PRESENCE = Attack("presence", "presence", _joined("hostile", '"type":"presence","room":"hostile"'))
STORM = Attack(
    "storm",
    "joins and leaves that all others see",
    replace(
        _joined("hostile-{room}", '"type":"join","room":"hostile-{room}"'),
        before='{"type":"leave","room":"hostile-{room}"}',
    ),
    rate=PINGS.rate / 2,
    burst=PINGS.burst // 2,
    honest=IN_ALL_ROOMS,
)
VICTIM = Attack(
    "victim",
    "messages to one of the others",
    _joined("hostile", '"type":"send","to":"user-0","data":' + LONG),
)
IN_ROOMS = Attack(
    "rooms",
    f"messages to {ROOMS} rooms of all others",
    _publishing("hostile-{room}", LONG),
    honest=IN_ALL_ROOMS,
)
SLOW_VICTIM = replace(
    IN_ROOMS,
    name="slow-victim",
    title=f"messages to {ROOMS} rooms of a client that reads slowly",
    honest=SERVICE_PINGS,
    slow=IN_ALL_ROOMS,
)
HANDSHAKES = Attack(
    "handshakes",
    "handshakes",
    GUEST,
    burst=0,
    connections=CONNECTIONS_PER_ADDRESS,
)
BAD_HANDSHAKES = replace(
    HANDSHAKES,
    name="bad-handshakes",
    title="handshakes with bad credentials",
    headers=bad_authorization,
)
HALF_HANDSHAKES = replace(
    HANDSHAKES,
    name="half-handshakes",
    title="half handshakes",
    burst=HANDSHAKES.connections,
    request_bytes=100,
)
IDLE = replace(
    HANDSHAKES,
    name="idle",
    title="HTTP connections without a request, 100 too many",
    burst=HANDSHAKES.connections + 100,
    connections=HANDSHAKES.connections + 100,
    request_bytes=0,
)
