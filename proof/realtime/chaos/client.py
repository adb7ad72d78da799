"""A client that follows the README: it returns with its positions, and heeds `resync`."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from app.realtime.rooms.history import Position
from dev.connect import ConnectOptions

from ..processes import Failure
from .ledger import Ledger

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 1.0
PATIENCE_S = 2.0
REST_S = 30.0
POLL_S = 0.02
FAILURES = (OSError, WebSocketException, httpx.HTTPError)
"""What can become of a connection; a timeout is an `OSError`."""

Reach = Callable[[], Awaitable[ConnectOptions]]
"""Returns how to connect, to whichever node, with fresh credentials."""


class Client:
    """Somebody who is in some rooms, listens there, and now and then has something to say."""

    def __init__(
        self, reach: Reach, rooms: Sequence[str], ledger: Ledger, *, pause_s: float, seed: str
    ) -> None:
        self.memberships = {room: ledger.open(room) for room in rooms}
        self.talks = True
        self._reach = reach
        self._ledger = ledger
        self._pause_s = pause_s
        self._rng = random.Random(seed)
        self._backoff_s = FIRST_BACKOFF_S
        self._connection: ClientConnection | None = None
        self._to_join: set[str] = set()
        self._asked_at: dict[str, int] = {}
        self._inside: set[str] = set()
        self._unanswered: set[int] = set()

    async def run(self) -> None:
        """Be there, and talk, until cancelled.

        Raises:
            ExceptionGroup: the service refuses what it should not (`Failure`).

        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_connected())
            tasks.create_task(self._talk())

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection, as far as it knows."""
        return self._connection is not None

    @property
    def waits(self) -> bool:
        """Whether an answer to something that it has published may still come."""
        return bool(self._unanswered)

    def check(self) -> None:
        """Join all rooms again, to learn whether anything is missing."""
        self._to_join.update(self.memberships)

    def has_checked_since(self, tick: int) -> bool:
        """Return whether it has, and has got what was missing."""
        memberships = self.memberships.values()
        return all(each.checked_at > tick and each.is_complete for each in memberships)

    def cut_off(self) -> None:
        """Lose the connection."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def _keep_connected(self) -> None:
        while True:
            with suppress(*FAILURES):
                await self._visit()
            await asyncio.sleep(self._backoff_s * self._rng.uniform(0.5, 1))
            self._backoff_s = min(2 * self._backoff_s, LONGEST_BACKOFF_S)

    async def _visit(self) -> None:
        options = await self._reach()
        async with connect(
            options.uri,
            additional_headers=options.headers,
            subprotocols=[Subprotocol(name) for name in options.subprotocols] or None,
            proxy=None,
            compression=None,
            open_timeout=PATIENCE_S,
            ping_interval=PATIENCE_S / 2,
            ping_timeout=PATIENCE_S,
            close_timeout=0.1,
        ) as connection:
            self._connection = connection
            try:
                self.check()
                await self._join()
                async for frame in connection:
                    await self._take(json.loads(frame))
            finally:
                self._connection = None
                self._asked_at.clear()
                self._inside.clear()
                self._unanswered.clear()
                for membership in self.memberships.values():
                    membership.leave()

    async def _talk(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s * self._rng.uniform(0, 2))
            with suppress(ConnectionClosed):
                await self._join()
                if self.talks and self._inside:
                    room = self._rng.choice(sorted(self._inside))
                    await self.publish(room, echo=self._rng.random() < 0.5)

    async def publish(self, room: str, *, echo: bool) -> None:
        """Publish a message in a room."""
        number = self._ledger.send(room, spared=None if echo else self.memberships[room])
        self._unanswered.add(number)
        await self._send(type="publish", room=room, data=number, echo=echo, id=str(number))

    async def _send(self, **frame: object) -> None:
        if self._connection is not None:
            await self._connection.send(json.dumps(frame))

    async def _join(self) -> None:
        if self._connection is None:
            return
        rooms = sorted(self._to_join - self._asked_at.keys())
        self._to_join.difference_update(rooms)
        self._asked_at |= dict.fromkeys(rooms, self._ledger.tick())
        for room in rooms:
            position = self.memberships[room].position
            since = {}
            if position is not None:
                since = {"since": {"epoch": position.epoch, "offset": position.offset}}
            await self._send(type="join", room=room, id=room, **since)

    async def _take(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "welcome":
                self._backoff_s = FIRST_BACKOFF_S
            case "message" if frame.get("room") in self.memberships:
                self.memberships[frame["room"]].take(frame["data"], frame["offset"])
            case "ok" | "error" if frame["id"] in self.memberships:
                self._take_answer_to_join(frame)
            case "ok" | "error":
                self._take_answer_to_publish(frame)
            case "resync":
                if frame["room"] is None:
                    self.check()
                else:
                    self.memberships[frame["room"]].doubt()
                    self._to_join.add(frame["room"])
                await self._join()
            case "ping":
                await self._send(type="pong")

    def _take_answer_to_join(self, frame: dict[str, Any]) -> None:
        room = frame["id"]
        asked_at = self._asked_at.pop(room)
        if frame["type"] == "error":
            self._check_worth_a_retry(frame)
            self._to_join.add(room)
            return
        self._inside.add(room)
        self.memberships[room].enter(
            Position(frame["epoch"], frame["offset"]),
            asked_at,
            recovered=frame["recovered"],
            replayed=frame["replayed"],
        )

    def _take_answer_to_publish(self, frame: dict[str, Any]) -> None:
        number = int(frame["id"])
        self._unanswered.remove(number)
        if frame["type"] == "ok":
            self._ledger.acknowledge(number, frame["offset"])
        else:
            self._check_worth_a_retry(frame)

    def _check_worth_a_retry(self, frame: dict[str, Any]) -> None:
        if not frame["retry"]:
            msg = f"the service refuses a command: {frame['code']}: {frame['message']}"
            raise Failure(msg)


async def come_to_rest(clients: Sequence[Client], ledger: Ledger) -> None:
    """Stop publishing; let every client recover missing messages or learn of a gap.

    Raises:
        Failure: that takes too long.

    """
    for client in clients:
        client.talks = False
    await _wait_until(lambda: not any(client.waits for client in clients), "publications")
    tick = ledger.tick()
    for client in clients:
        client.check()
    await _wait_until(lambda: all(client.has_checked_since(tick) for client in clients), "joins")


async def _wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = monotonic() + REST_S
    while not condition():
        if monotonic() > give_up_at:
            msg = f"some {what} are not answered"
            raise Failure(msg)
        await asyncio.sleep(POLL_S)
