"""A client that follows the protocol: it reconnects with its positions, and obeys `resync`."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from app.realtime.rooms.history import Position

from ..client import ConnectOptions
from ..processes import Failure
from .ledger import Ledger

Frame = dict[str, Any]

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 1.0
TIMEOUT_S = 2.0
SETTLE_S = 30.0
POLL_S = 0.02
EVICTED = {"the user was taken out of the room", "join the room first"}
"""Messages of the errors of commands that an eviction has overtaken."""

FAILURES = (OSError, WebSocketException, httpx.HTTPError)
"""Errors of a connection; a timeout is an `OSError`."""

NextOptions = Callable[[], Awaitable[ConnectOptions]]
"""Returns options to connect to one of the nodes, with new credentials."""


class Client:
    """A client that joins rooms, records their messages, and publishes at random intervals.

    It repeats a publication with a key until it is acknowledged, over any of its connections.
    """

    def __init__(
        self,
        next_options: NextOptions,
        rooms: Sequence[str],
        ledger: Ledger,
        *,
        pause_s: float,
        seed: str,
    ) -> None:
        self.rooms = tuple(rooms)
        self.memberships = {room: ledger.open(room) for room in rooms}
        self.publishes = True
        self.user = ""
        self._next_options = next_options
        self._ledger = ledger
        self._pause_s = pause_s
        self._rng = random.Random(seed)
        self._backoff_s = FIRST_BACKOFF_S
        self._connection: ClientConnection | None = None
        self._to_join: set[str] = set()
        self._join_ticks: dict[str, int] = {}
        self._joined: set[str] = set()
        self._unanswered: dict[int, Frame] = {}
        self._to_repeat: dict[int, Frame] = {}

    async def run(self) -> None:
        """Stay connected and publish, until cancelled.

        Raises:
            ExceptionGroup: the service permanently refuses a command (`Failure`).
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_connected())
            tasks.create_task(self._publish_messages())

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection."""
        return self._connection is not None

    @property
    def is_waiting(self) -> bool:
        """Whether a publish command is still unanswered."""
        return bool(self._unanswered)

    def rejoin(self) -> None:
        """Join all rooms again, to recover missed messages."""
        self._to_join.update(self.memberships)

    def has_rejoined_since(self, tick: int) -> bool:
        """Return whether it has rejoined all rooms since a tick, and their replays are complete."""
        memberships = self.memberships.values()
        return all(each.rejoined_at > tick and each.is_complete for each in memberships)

    def abort(self) -> None:
        """Abort the connection."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def _keep_connected(self) -> None:
        while True:
            with suppress(*FAILURES):
                await self._run_connection()
            await asyncio.sleep(self._backoff_s * self._rng.uniform(0.5, 1))
            self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)

    async def _run_connection(self) -> None:
        options = await self._next_options()
        async with connect(
            options.uri,
            additional_headers=options.headers,
            subprotocols=[Subprotocol(name) for name in options.subprotocols] or None,
            proxy=None,
            compression=None,
            open_timeout=TIMEOUT_S,
            ping_interval=TIMEOUT_S / 2,
            ping_timeout=TIMEOUT_S,
            close_timeout=0.1,
        ) as connection:
            self._connection = connection
            try:
                self.rejoin()
                await self._join()
                async for frame in connection:
                    await self._handle(json.loads(frame))
            finally:
                self._connection = None
                self._join_ticks.clear()
                self._joined.clear()
                for number, publication in self._unanswered.items():
                    self._repeat_later(number, publication)
                self._unanswered.clear()
                for membership in self.memberships.values():
                    membership.disconnected()

    async def _publish_messages(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s * self._rng.uniform(0, 2))
            with suppress(ConnectionClosed):
                await self._join()
                if self.publishes and self._joined:
                    room = self._rng.choice(sorted(self._joined))
                    echo, has_key = self._rng.random() < 0.5, self._rng.random() < 0.5
                    await self.publish(room, echo=echo, has_key=has_key)
                    await self._repeat()

    async def publish(self, room: str, *, echo: bool, has_key: bool = False) -> None:
        """Publish the next message in a room."""
        excluded = None if echo else self.memberships[room]
        number = self._ledger.send(room, excluded, has_key=has_key)
        publication = {"room": room, "data": number, "echo": echo, "id": str(number)}
        if has_key:
            publication["key"] = uuid4().hex
        await self._publish(number, publication)

    async def _publish(self, number: int, publication: Frame) -> None:
        self._unanswered[number] = publication
        await self._send(type="publish", **publication)

    def _repeat_later(self, number: int, publication: Frame) -> None:
        if "key" in publication:
            self._to_repeat[number] = publication

    async def _repeat(self) -> None:
        """Repeat the publication in a joined room that waits for the longest time."""
        waiting = self._to_repeat.items()
        number = next((number for number, each in waiting if each["room"] in self._joined), None)
        if number is not None:
            self._ledger.repeat(number)
            await self._publish(number, self._to_repeat.pop(number))

    async def _send(self, **frame: object) -> None:
        if self._connection is not None:
            await self._connection.send(json.dumps(frame))

    async def _join(self) -> None:
        if self._connection is None:
            return
        rooms = sorted(self._to_join - self._join_ticks.keys())
        self._to_join.difference_update(rooms)
        self._join_ticks |= dict.fromkeys(rooms, self._ledger.tick())
        for room in rooms:
            position = self.memberships[room].position
            since = {}
            if position is not None:
                since = {"since": {"epoch": position.epoch, "offset": position.offset}}
            await self._send(type="join", room=room, id=room, **since)

    async def _handle(self, frame: Frame) -> None:
        match frame["type"]:
            case "welcome":
                self._handle_welcome(frame["user"])
            case "message" if frame.get("room") in self.memberships:
                self.memberships[frame["room"]].received(frame["data"], frame["offset"])
            case "ok" | "error" if frame["id"] in self.memberships:
                self._handle_join_reply(frame)
            case "ok" | "error":
                self._handle_publish_reply(frame)
            case "evicted":
                await self._handle_eviction(frame["room"])
            case "resync":
                await self._handle_resync(frame["room"])
            case "ping":
                await self._send(type="pong")

    def _handle_welcome(self, user: str) -> None:
        self._backoff_s = FIRST_BACKOFF_S
        if user != self.user:  # a guest, whose keys are not those of the last one
            self._to_repeat.clear()
        self.user = user

    async def _handle_resync(self, room: str | None) -> None:
        if room is None:
            self.rejoin()
        else:
            self.memberships[room].resync()
            self._to_join.add(room)
        await self._join()

    async def _handle_eviction(self, room: str) -> None:
        if room in self._join_ticks:  # it would replay messages that came before the eviction
            self.abort()
            return
        self.memberships[room].disconnected()
        self._joined.discard(room)
        self._to_join.add(room)
        await self._join()

    def _handle_join_reply(self, frame: Frame) -> None:
        room = frame["id"]
        join_sent_at = self._join_ticks.pop(room)
        if frame["type"] == "error":
            self._check_retryable(frame)
            self._to_join.add(room)
            return
        self._joined.add(room)
        self.memberships[room].join_answered(
            Position(frame["epoch"], frame["offset"]),
            join_sent_at,
            recovered=frame["recovered"],
            replayed=frame["replayed"],
        )

    def _handle_publish_reply(self, frame: Frame) -> None:
        number = int(frame["id"])
        publication = self._unanswered.pop(number)
        if frame["type"] == "ok":
            self._ledger.acknowledge(number, frame["offset"])
        else:
            self._check_retryable(frame)
            self._repeat_later(number, publication)

    def _check_retryable(self, frame: Frame) -> None:
        if not frame["retry"] and frame["message"] not in EVICTED:
            msg = f"the service refuses a command: {frame['code']}: {frame['message']}"
            raise Failure(msg)


async def settle(clients: Sequence[Client], ledger: Ledger) -> None:
    """Stop publishing, and let every client recover missed messages or learn of a gap.

    Raises:
        Failure: it takes too long.
    """
    for client in clients:
        client.publishes = False
    published = "some publications were not answered in time"
    await wait_until_settled(lambda: not any(each.is_waiting for each in clients), published)
    tick = ledger.tick()
    for client in clients:
        client.rejoin()
    joined = "some joins were not answered in time"
    await wait_until_settled(
        lambda: all(client.has_rejoined_since(tick) for client in clients), joined
    )


async def wait_until_settled(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition.

    Raises:
        Failure: it takes too long; with what to say ``otherwise``.
    """
    give_up_at = monotonic() + SETTLE_S
    while not condition():
        if monotonic() > give_up_at:
            raise Failure(otherwise)
        await asyncio.sleep(POLL_S)
