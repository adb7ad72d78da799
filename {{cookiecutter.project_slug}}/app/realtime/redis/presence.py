"""The presence of all nodes together, which Redis knows.

Each node writes down the users that a room has there, and renews its lease on what it wrote. A node
that dies cannot take its users away, so another one that finds the lease at an end does.

What is written is how many connections a user has, not one more or one less. So it may be repeated
after an outage, and a Redis that has forgotten everything is simply told again.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from itertools import count, islice

import structlog

from ..backplane import Channel
from ..rooms.history import Deliver, room_channel
from ..settings import RealtimeSettings
from .backplane import RedisBackplane
from .client import FAILURES, Batch, answered_within, explain
from .roster import BURY, WRITE, RedisRoster

log = structlog.stdlib.get_logger(__name__)

RENEWALS = 4
"""How often a lease is renewed in its time; if the node is dead, others notice at the last one."""

ROOMS_AT_ONCE = 100
"""How many rooms are written in one round trip."""


class RedisPresence:
    """Writes rosters down, one round trip at a time, and keeps them alive."""

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        self._backplane = backplane
        self._most_told = settings.max_members_for_presence_events
        self._most_listed = settings.max_members_listed
        self._lease_ms = round(settings.presence_lease_s * 1000)
        self._node = secrets.token_urlsafe(9)
        self._turns = count(1)
        self._rosters: dict[str, RedisRoster] = {}
        self._unwritten: dict[RedisRoster, None] = {}
        self._has_unwritten = asyncio.Event()
        self._failing = False
        self._is_due = asyncio.Event()
        backplane.after_gap(self._is_due.set)
        backplane.client.probe_with(self._attempt)

    def __len__(self) -> int:
        """Return the number of rosters that are kept."""
        return len(self._rosters)

    def open(self, room: str, deliver: Deliver) -> RedisRoster:
        """Begin a room's roster, or go on with one; its events come on the room's channel."""
        return self._rosters.get(room) or RedisRoster(
            room,
            self._write_later,
            timeout_s=self._backplane.timeout_s,
            most_listed=self._most_listed,
        )

    def _write_later(self, roster: RedisRoster) -> None:
        self._rosters[roster.room] = roster
        self._unwritten[roster] = None
        self._has_unwritten.set()

    async def run(self) -> None:
        """Write and renew until cancelled, and at last write who has left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write())
                tasks.create_task(self._renew())
        finally:
            self._write_all_later()
            while self._unwritten and await self._write_some():
                pass

    async def _renew(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_ms / 1000 / RENEWALS):
                    await self._is_due.wait()
            self._is_due.clear()
            for number, roster in enumerate(list(self._rosters.values())):
                if number % ROOMS_AT_ONCE == 0:  # others have their turn
                    await asyncio.sleep(0)
                if self._rosters.get(roster.room) is roster:
                    self._write_later(roster)

    def _write_all_later(self) -> None:
        for roster in list(self._rosters.values()):
            self._write_later(roster)

    async def _write(self) -> None:
        while True:
            await self._has_unwritten.wait()
            if not await self._write_some():
                await asyncio.sleep(self._backplane.timeout_s)

    async def _write_some(self) -> bool:
        """Write the rosters that have waited longest; return whether Redis has answered."""
        rosters = list(islice(self._unwritten, ROOMS_AT_ONCE))
        for roster in rosters:  # which may change again meanwhile
            del self._unwritten[roster]
        if not self._unwritten:
            self._has_unwritten.clear()
        try:
            async with answered_within(self._backplane.timeout_s):
                self._note(await self._write_together(rosters))
        except FAILURES as failure:
            self._note([failure])
            for roster in rosters:
                self._write_later(roster)
            return False
        return True

    def _note(self, failures: Sequence[BaseException]) -> None:
        if failures and not self._failing:
            log.warning("writing presence failed", error=explain(failures[0]))
        self._failing = bool(failures)

    async def _write_together(self, rosters: Sequence[RedisRoster]) -> list[Exception]:
        """Write rosters, and return what Redis refuses, which the next renewal tries again."""
        pipeline = self._pipeline()
        for roster in rosters:
            self._add(pipeline, room_channel(roster.room), roster.report())
        refusals: list[Exception] = []
        dead: list[tuple[RedisRoster, bytes]] = []
        replies = await pipeline.execute(raise_on_error=False)
        for roster, reply in zip(rosters, replies, strict=True):
            if isinstance(reply, Exception):
                refusals.append(reply)
            elif reply is None:
                roster.begin()
            elif reply[0]:
                dead += [(roster, node) for node in reply[0]]
            else:
                _, total, listed = reply
                roster.confirm(total, listed)
                if roster.is_over:
                    del self._rosters[roster.room]
        return refusals + await self._bury(dead)

    def _attempt(self, pipeline: Batch, channel: Channel) -> None:
        for connections in (1, 0):  # somebody comes and goes
            self._add(pipeline, channel, [1, 1, self._node, connections, self._node])

    def _add(self, pipeline: Batch, channel: Channel, report: Sequence[str | int]) -> None:
        pipeline.eval(
            WRITE,
            4,
            *self._keys(channel, self._node),
            *self._common(self._node),
            self._lease_ms * (RENEWALS - 1) // RENEWALS,
            next(self._turns),
            *report,
        )

    async def _bury(self, dead: Sequence[tuple[RedisRoster, bytes]]) -> list[Exception]:
        """Take dead nodes out of rooms, and have these written now; return what Redis refuses."""
        pipeline = self._pipeline()
        for roster, node in dead:
            keys = self._keys(room_channel(roster.room), _name(node))
            pipeline.eval(BURY, 4, *keys, *self._common(node))
        replies = await pipeline.execute(raise_on_error=False)
        refusals = [reply for reply in replies if isinstance(reply, Exception)]
        if dead and not refusals:
            log.warning("nodes lost", nodes=sorted({_name(node) for _, node in dead}))
            for roster, _ in dead:
                self._write_later(roster)
        return refusals

    def _common(self, node: str | bytes) -> tuple[str | bytes, str, int, int]:
        command = self._backplane.client.publish_command
        return node, command, self._most_told, self._lease_ms * RENEWALS

    def _pipeline(self) -> Batch:
        return self._backplane.client.commands.pipeline(transaction=False)

    def _keys(self, channel: Channel, node: str) -> tuple[str, str, str, str]:
        users, nodes, node_users = (
            self._backplane.key(channel, name) for name in ("users", "nodes", f"node:{node}")
        )
        return users, nodes, self._backplane.name(channel), node_users


def _name(node: bytes) -> str:
    # Whoever can reach Redis can write there; what is no node's name is to be buried all the same.
    return node.decode(errors="replace")
