"""The presence of all nodes together, which Redis knows.

Each node writes down the users that a room has there, and renews its lease on what it wrote. A node
that dies cannot take its users away, so another one that finds the lease at an end does.

What is written is how many connections a user has, not one more or one less. So it may be repeated
after an outage, and a Redis that has forgotten everything is simply told again.
"""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import count

import structlog

from ...backplane import Channel
from ...rooms.history import room_channel
from ...rooms.presence import Presence
from ...settings.settings import RealtimeSettings
from ..backplane import RedisBackplane
from ..connections import FAILURES, Command, explain
from ..worker import Worker, in_turns
from .roster import RedisRoster
from .scripts import Script

log = structlog.stdlib.get_logger(__name__)

RENEWALS = 4
"""Renewals per lease; a dead node is detected after RENEWALS - 1 of them."""

ROOMS_AT_ONCE = 100
"""How many rooms are written in one round trip."""

WRITE = Script("members", "write")
BURY = Script("members", "bury")


class RedisPresence(Presence):
    """Writes rosters down, one round trip at a time, and keeps them alive."""

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        super().__init__(backplane, settings)
        self._backplane: RedisBackplane = backplane
        self._client = backplane.client
        self._lease_ms = round(settings.presence_lease_s * 1000)
        self._node = secrets.token_urlsafe(9)
        self._turns = count(1)
        self._rosters: dict[str, RedisRoster] = {}
        self._unwritten = Worker(
            self._write, batch_weight=ROOMS_AT_ONCE, pause_s=self._client.timeout_s
        )
        self._failing = False
        self._is_due = asyncio.Event()
        backplane.after_gap(self._is_due.set)
        self._client.probe_with(self._attempt)

    def __len__(self) -> int:
        """Return the number of rosters that are kept."""
        return len(self._rosters)

    def open(self, room: str) -> RedisRoster:
        """Begin a room's roster, or go on with one; its events come on the room's channel."""
        return self._rosters.get(room) or RedisRoster(
            room, self._backplane, self._settings, self._write_later
        )

    def _write_later(self, roster: RedisRoster) -> None:
        self._rosters[roster.room] = roster
        self._unwritten.add(roster)

    async def run(self) -> None:
        """Write and renew until cancelled, and at last write who has left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._unwritten.run())
                tasks.create_task(self._renew())
        finally:
            self.write_all_later()
            while self._unwritten and await self._unwritten.work_once():
                pass

    async def _renew(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_ms / 1000 / RENEWALS):
                    await self._is_due.wait()
            self._is_due.clear()
            async for roster in in_turns(self._rosters.values(), ROOMS_AT_ONCE):
                if self._rosters.get(roster.room) is roster:
                    self._unwritten.add(roster)

    def write_all_later(self) -> None:
        """Have every roster written again."""
        for roster in self._rosters.values():
            self._unwritten.add(roster)

    async def _write(self, rosters: list[RedisRoster]) -> Collection[RedisRoster]:
        """Write rosters; return all of them if Redis does not answer."""
        try:
            refusals = await self._write_together(rosters)
        except FAILURES as failure:
            self._note([failure])
            return rosters
        self._note(refusals)
        return ()

    def _note(self, failures: Sequence[BaseException]) -> None:
        if failures and not self._failing:
            log.warning("writing presence failed", error=explain(failures[0]))
        self._failing = bool(failures)

    async def _write_together(self, rosters: Sequence[RedisRoster]) -> list[Exception]:
        """Write rosters, and return what Redis refuses, which the next renewal tries again."""
        refusals: list[Exception] = []
        dead: list[tuple[RedisRoster, bytes]] = []
        replies = await self._client.send(
            [self.writing(room_channel(roster.room), roster.report()) for roster in rosters]
        )
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
        return refusals + (await self._bury(dead) if dead else [])

    async def _bury(self, dead: Sequence[tuple[RedisRoster, bytes]]) -> list[Exception]:
        """Take dead nodes out of rooms, and have these written now; return what Redis refuses."""
        replies = await self._client.send(
            [self._script(BURY, room_channel(roster.room), node) for roster, node in dead]
        )
        refusals = [reply for reply in replies if isinstance(reply, Exception)]
        if not refusals:
            log.warning("nodes lost", nodes=sorted({_name(node) for _, node in dead}))
            for roster, _ in dead:
                self._unwritten.add(roster)
        return refusals

    def writing(self, channel: Channel, report: Sequence[str | int]) -> Command:
        """Return the command that writes a report of this node."""
        lease_ms = self._lease_ms * (RENEWALS - 1) // RENEWALS
        return self._script(WRITE, channel, self._node, lease_ms, next(self._turns), *report)

    def _attempt(self, channel: Channel) -> Sequence[Command]:
        # Somebody comes and goes.
        reports = [[1, 1, self._node, connections, self._node] for connections in (1, 0)]
        return [self.writing(channel, report) for report in reports]

    def _script(
        self, script: Script, channel: Channel, node: str | bytes, *more: str | int
    ) -> Command:
        client = self._client
        users, nodes, node_users = (
            client.key(channel, name) for name in ("users", "nodes", f"node:{_name(node)}")
        )
        return script.command(
            [users, nodes, client.name(channel), node_users],
            *(node, client.publish_command, self._settings.max_members_for_presence_events),
            *(self._lease_ms * RENEWALS, *more),
        )


def _name(node: str | bytes) -> str:
    # Whoever can reach Redis can write there; what is no node's name is to be buried all the same.
    return node.decode(errors="replace") if isinstance(node, bytes) else node
