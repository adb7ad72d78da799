"""Presence in Redis, for all nodes.

Each node writes which users it has in a room, and renews its lease on them. When the lease of a
dead node has expired, another node removes its users.

A node writes how many connections a user has, not the difference. So it can repeat a write after an
outage, and write everything again if Redis has lost it. Members then get a `resync`, since
events may be missing.
"""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from itertools import count, cycle
from time import monotonic

import structlog

from ...backplane import Channel
from ...connections.connection import Connection
from ...errors import Unavailable
from ...rooms.history import room_channel
from ...rooms.options import Rules, make_rules
from ...rooms.presence import Members, Presence
from ...settings.settings import RealtimeSettings
from ..backplane import RedisBackplane
from ..connections import FAILURES, RedisCommand, answered_within, explain, has_malformed_data
from ..scripts import Script
from ..worker import Worker
from .local_presence import Argument, LocalPresence

log = structlog.stdlib.get_logger(__name__)

RENEWALS = 4  # renewals per lease; a dead node is detected after RENEWALS - 1 of them
SHARES = 20  # parts in which the rooms are renewed, one after the other
ROOMS_AT_ONCE = 100  # rooms in one round trip

WRITE = Script("rooms/members", "rooms/write")
REMOVE_NODE = Script("rooms/members", "rooms/remove_node")


class RedisPresence(Presence):
    """Writes the users of rooms to Redis, one round trip at a time, and renews their leases.

    It overrides all methods of `Presence`.
    """

    def __init__(self, backplane: RedisBackplane, settings: RealtimeSettings) -> None:
        super().__init__(backplane, settings)
        self._client = backplane.client
        self._lease_ms = round(settings.presence_lease_s * 1000)
        self._node = secrets.token_urlsafe(9)
        self._writes = count(1)
        self._rooms: dict[str, LocalPresence] = {}
        pause_s = self._client.timeout_s
        self._unwritten = Worker(self._write, batch_weight=ROOMS_AT_ONCE, pause_s=pause_s)
        self._is_failing = False
        self._ignores_dead_until = 0.0
        backplane.after_gap(self.write_all_later)
        backplane.after_gap(self._ignore_dead)
        self._client.add_probe(self._probe_commands)

    def count(
        self, room: str, rules: Rules, connection: Connection, difference: int, info: bytes | None
    ) -> None:
        """Count a connection in or out, or change its user's info; Redis is told later."""
        present = self._room(room, rules)
        present.count(connection, difference, info)
        self._unwritten.add(present)

    def _room(self, name: str, rules: Rules) -> LocalPresence:
        if name not in self._rooms:
            self._rooms[name] = LocalPresence(name, rules, self._settings.max_members_listed)
        return self._rooms[name]

    async def read(self, room: str, rules: Rules) -> Members:
        """Return the users in the room, which Redis lists in its reply to the next write.

        Raises:
            Unavailable: Redis does not answer in time.
        """
        answer: asyncio.Future[Members] = asyncio.get_running_loop().create_future()
        present = self._room(room, rules)
        present.asking.append(answer)
        self._unwritten.add(present)
        try:
            async with answered_within(self._client.timeout_s):
                return await answer
        except TimeoutError:
            raise Unavailable("the users of the room are not known now") from None

    async def run(self) -> None:
        """Write and renew until cancelled; then write the last changes."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._unwritten.run())
                tasks.create_task(self._renew())
        finally:
            self.write_all_later()
            while self._unwritten and not await self._write(self._unwritten.take_batch()):
                pass

    async def _renew(self) -> None:
        """Write each room once per interval, in shares, so that no request waits for all rooms."""
        for share in cycle(range(SHARES)):
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS / SHARES)
            for room in self._rooms.values():
                if hash(room.name) % SHARES == share:
                    self._unwritten.add(room)

    def write_all_later(self) -> None:
        """Write every room again."""
        for room in self._rooms.values():
            self._unwritten.add(room)

    async def _write(self, rooms: list[LocalPresence]) -> Collection[LocalPresence]:
        """Write rooms; return those still in use if Redis does not answer.

        Rooms that Redis refuses are written at the next renewal.
        """
        again: Collection[LocalPresence] = ()
        try:
            failures = await self._write_together(rooms)
        except FAILURES as failure:
            failures = [failure]
            again = [each for each in rooms if self._rooms.get(each.name) is each]
        if failures:
            self._ignore_dead()
            if not self._is_failing:  # one line per outage
                log.warning("writing presence failed", error=explain(failures[0]))
        self._is_failing = bool(failures)
        return again

    def _ignore_dead(self) -> None:
        """Remove no node for one lease: after an outage, others may renew their leases later."""
        self._ignores_dead_until = monotonic() + self._lease_ms / 1000

    async def _write_together(self, rooms: Sequence[LocalPresence]) -> list[BaseException]:
        """Write rooms in one round trip, remove dead nodes, and return the errors of Redis."""
        dead: list[tuple[LocalPresence, bytes]] = []
        malformed: list[tuple[LocalPresence, str | bytes]] = []
        refusals: list[BaseException] = []
        writes = [
            self.write_command(room_channel(each.name), each.rules, each.report(next(self._writes)))
            for each in rooms
        ]
        replies = await self._client.send_in_background(writes)
        for room, reply in zip(rooms, replies, strict=True):
            if isinstance(reply, Exception):
                refusals.append(reply)
                if has_malformed_data(reply):
                    malformed.append((room, self._node))
            elif reply is None and room.written:
                room.restart()
                self._unwritten.add(room)
            elif reply and reply[0] and monotonic() > self._ignores_dead_until:
                dead += [(room, node) for node in reply[0]]
            elif reply and room.confirm(*reply[1:]):
                self._finish(room)
            else:  # a forged list, or a forged write number that makes Redis refuse a first write
                malformed.append((room, self._node))
        if malformed:
            await self._remove_malformed(malformed)
        return refusals + (await self._remove_nodes(dead) if dead else [])

    def _finish(self, room: LocalPresence) -> None:
        if room.unwritten or room.asking:
            self._unwritten.add(room)
        elif not room.users:
            self._rooms.pop(room.name, None)
            self._unwritten.discard(room)

    async def _remove_malformed(self, found: Sequence[tuple[LocalPresence, str | bytes]]) -> None:
        """Remove presence that no node can have written; the next renewals write it again."""
        log.warning("malformed presence removed", rooms=len(found))
        removals = [("DEL", *self._keys(room_channel(room.name), node)) for room, node in found]
        await self._client.send_in_background(removals)
        for room, _ in found:
            room.restart()

    async def _remove_nodes(
        self, dead: Sequence[tuple[LocalPresence, bytes]]
    ) -> list[BaseException]:
        """Remove dead nodes, and write their rooms again; return the refusals of Redis."""
        removals = [
            self._script(REMOVE_NODE, room_channel(room.name), node, room.rules)
            for room, node in dead
        ]
        replies = await self._client.send_in_background(removals)
        malformed: list[tuple[LocalPresence, str | bytes]] = []
        refusals: list[BaseException] = []
        lost = set()
        for (room, node), reply in zip(dead, replies, strict=True):
            self._unwritten.add(room)
            if not isinstance(reply, Exception):
                lost.add(_name(node))
            elif has_malformed_data(reply):
                malformed.append((room, node))
            else:
                refusals.append(reply)
        if lost:
            log.warning("nodes lost", nodes=sorted(lost))
        if malformed:
            await self._remove_malformed(malformed)
        return refusals

    def write_command(
        self, channel: Channel, rules: Rules, report: Sequence[Argument]
    ) -> RedisCommand:
        """Return the command that writes the report of a room."""
        lease_ms = self._lease_ms * (RENEWALS - 1) // RENEWALS
        max_bytes = self._settings.max_message_bytes
        return self._script(WRITE, channel, self._node, rules, lease_ms, max_bytes, *report)

    def _probe_commands(self, channel: Channel) -> Sequence[RedisCommand]:
        # A user enters and leaves. Only the removal of a dead node needs HGETALL.
        rules = make_rules(self._settings)(channel)
        changes = [[self._node, connections, self._node, ""] for connections in (1, 0)]
        reports = [[next(self._writes), 0, 1, "", *change] for change in changes]
        writes = [self.write_command(channel, rules, report) for report in reports]
        return *writes, ("HGETALL", self._keys(channel, self._node)[0])

    def _keys(self, channel: Channel, node: str | bytes) -> Sequence[str]:
        names = "users", "nodes", f"node:{_name(node)}"
        return [self._client.key(channel, name) for name in names]

    def _script(
        self, script: Script, channel: Channel, node: str | bytes, rules: Rules, *more: Argument
    ) -> RedisCommand:
        client = self._client
        users, nodes, node_users = self._keys(channel, node)
        return script.command(
            [users, nodes, client.name(channel), node_users],
            *(node, client.publish_command, rules.max_members_for_events),
            *(self._lease_ms * RENEWALS, *more),
        )


def _name(node: str | bytes) -> str:
    # Anybody with access to Redis can write invalid names; they are removed, too.
    return node.decode(errors="replace") if isinstance(node, bytes) else node
