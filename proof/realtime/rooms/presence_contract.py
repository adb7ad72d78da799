"""The contract of every presence; each implementation's test module inherits it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import JsonValue

from app.realtime import ServerFrame
from app.realtime.connections.delivery import Delivery
from app.realtime.errors import Forbidden
from app.realtime.rooms.options import RoomOptions
from app.realtime.rooms.presence import Members
from app.realtime.rooms.rooms import NotJoined, Rooms

from ..live import wait_until_async
from ..recording_wire import RecordingWire, open_connection

ROOM = "lobby"


@dataclass(slots=True, kw_only=True)
class Notice(ServerFrame):
    """A frame of the team's own."""

    type: Literal["notice"] = "notice"
    room: str
    text: str


def users_in(presence: Members) -> dict[str, int]:
    """Return the users, with their numbers of connections."""
    return {member.user: member.connections for member in presence.members}


class Node:
    """A node that has only rooms."""

    def __init__(self, make_rooms: Callable[[Delivery], Rooms]) -> None:
        self.delivery = Delivery()
        self.rooms = make_rooms(self.delivery)

    async def visitor(self, user: str, room: str = ROOM, info: JsonValue = None) -> "Visitor":
        """Join the room with a new connection of a user."""
        visitor = Visitor(self, user, room)
        await self.rooms.join(visitor.connection, room, info=info)
        await self.settle()
        return visitor

    async def crowd(self, number: int) -> None:
        """Join the room with ``number`` users, with one connection each."""
        for each in range(number):
            visitor = Visitor(self, f"user-{each}", ROOM)
            await self.rooms.join(visitor.connection, ROOM)
        await self.settle()

    def set_options(self, **options: Any) -> None:
        """Give every room these options."""
        self.rooms.set_policy(
            lambda room, sender, data, keep: data, lambda room: RoomOptions(**options)
        )

    async def settle(self) -> None:
        """Wait until other nodes can see the changes on this node."""


class Visitor:
    """A connection in the room, which records its frames."""

    def __init__(self, node: Node, user: str, room: str) -> None:
        self._node = node
        self._room = room
        self._wire = RecordingWire()
        self.connection = open_connection(self._wire, node.delivery, user=user)

    def leave_now(self) -> None:
        """Leave the room."""
        self._node.rooms.leave(self.connection, self._room)

    async def leave(self) -> None:
        """Leave the room, and wait until other nodes can see it."""
        self.leave_now()
        await self._node.settle()

    async def seen(self) -> dict[str, int]:
        """Return the users in the room, with their connections."""
        return users_in(await self._node.rooms.presence(self._room))

    async def infos(self) -> dict[str, JsonValue]:
        """Return the infos of the users in the room."""
        presence = await self._node.rooms.presence(self._room)
        return {member.user: member.info for member in presence.members}

    def check_joined(self) -> None:
        """Raise `NotJoined` unless it is in the room."""
        self._node.rooms.check_joined(self.connection, self._room)

    def set_info_now(self, info: JsonValue) -> None:
        """Change the info of the user."""
        self._node.rooms.set_info(self.connection, self._room, info)

    async def set_info(self, info: JsonValue) -> None:
        """Change the info of the user, and wait until other nodes can see it."""
        self.set_info_now(info)
        await self._node.settle()

    async def told(self) -> list[tuple[str, str, JsonValue]]:
        """Return the events up to now, with the infos."""
        await self.heard()
        frames = [frame for frame in self.frames if "user" in frame]
        return [(frame["user"], frame["type"], frame.get("info")) for frame in frames]

    async def heard(self) -> list[str]:
        """Return the events up to now, including those in transit."""
        marker = f"heard by {self.connection.id}"
        await self._node.rooms.publish(self._room, marker)

        async def is_heard() -> bool:
            await self._node.delivery.catch_up()
            return any(frame.get("data") == marker for frame in self.frames)

        await wait_until_async(is_heard)
        return [f"{frame['user']} {frame['type']}" for frame in self.frames if "user" in frame]

    @property
    def frames(self) -> list[dict[str, Any]]:
        """The written frames, decoded."""
        frames = [frame for write in self._wire.writes for frame in write]
        return [json.loads(frame[frame.index(b"{") :]) for frame in frames]


class PresenceContract:
    """The fixtures ``here`` and ``there`` are two nodes with the same rooms, or one node.

    ``make`` returns a node with other settings.
    """

    async def test_users_are_counted_with_their_connections(self, here: Node, there: Node) -> None:
        alice = await here.visitor("alice")
        assert await alice.seen() == {"alice": 1}
        await there.visitor("alice")
        bob = await there.visitor("bob")
        for visitor in (bob, alice):
            assert await visitor.seen() == {"alice": 2, "bob": 1}
        await alice.leave()
        assert await bob.seen() == {"alice": 1, "bob": 1}

    async def test_every_node_knows_who_is_there(self, here: Node, there: Node) -> None:
        assert (await there.rooms.presence(ROOM)).total == 0
        alice = await here.visitor("alice")
        watcher = await here.visitor("watcher")
        for node in (there, here):
            presence = await node.rooms.presence(ROOM)
            assert (users_in(presence), presence.total) == ({"alice": 1, "watcher": 1}, 2)
        await alice.leave()
        assert users_in(await there.rooms.presence(ROOM)) == {"watcher": 1}
        assert await watcher.heard() == ["alice left"]

    async def test_frames_of_the_team_reach_members_on_every_node(
        self, here: Node, there: Node
    ) -> None:
        alice, bob = await here.visitor("alice"), await there.visitor("bob")
        outsider = await there.visitor("carol", room="elsewhere")
        frame = Notice(room=ROOM, text="a\nb ü")
        await here.rooms.send_frame(ROOM, frame, exclude=alice.connection.id)
        reached = await there.rooms.send_frame(ROOM, frame)
        assert reached == len({here, there})
        assert await there.rooms.send_frame("empty", frame) == 0
        for visitor in (alice, bob, outsider):
            await visitor.heard()
        shown = {"type": "notice", "room": ROOM, "text": "a\nb ü"}
        got = [
            [frame for frame in visitor.frames if frame["type"] == "notice"]
            for visitor in (alice, bob, outsider)
        ]
        assert got == [[shown], [shown, shown], []]

    async def test_the_first_connection_joins_and_the_last_one_leaves(
        self, here: Node, there: Node
    ) -> None:
        watcher = await here.visitor("watcher")
        first = await here.visitor("alice")
        second = await there.visitor("alice")
        third = await there.visitor("alice")
        assert await watcher.heard() == ["alice joined"]
        await first.leave()
        await third.leave()
        assert await watcher.heard() == ["alice joined"]
        await second.leave()
        assert await watcher.heard() == ["alice joined", "alice left"]
        await there.visitor("alice")
        assert await watcher.heard() == ["alice joined", "alice left", "alice joined"]

    async def test_a_joining_user_gets_no_event_of_its_own(self, here: Node, there: Node) -> None:
        alice = await here.visitor("alice")
        bob = await there.visitor("bob")
        assert await bob.heard() == []
        assert await alice.heard() == ["bob joined"]

    async def test_rooms_are_independent(self, here: Node, there: Node) -> None:
        alice = await here.visitor("alice")
        await there.visitor("bob", room="elsewhere")
        assert await alice.heard() == []
        assert await alice.seen() == {"alice": 1}

    async def test_names_may_be_anything(self, here: Node, there: Node) -> None:
        names = ["ü 👩‍👩‍👧", 'quo"te\\', "a:b", "{x}", "…", "-1", "joined"]
        watcher = await here.visitor("watcher")
        for name in names:
            await there.visitor(name)
        assert await watcher.heard() == [f"{name} joined" for name in names]
        assert await watcher.seen() == dict.fromkeys(["watcher", *names], 1)

    async def test_large_rooms_send_no_events(self, make: Callable[..., Node]) -> None:
        node = make(max_members_for_presence_events=2)
        watcher = await node.visitor("watcher")
        await node.visitor("alice")
        assert await watcher.heard() == ["alice joined"]
        bob = await node.visitor("bob")
        assert await watcher.heard() == ["alice joined"]
        await bob.leave()
        assert await watcher.heard() == ["alice joined"]

    async def test_long_lists_are_truncated(self, make: Callable[..., Node]) -> None:
        node = make(max_members_listed=3)
        for number in range(5):
            await node.visitor(f"user-{number}")
        presence = await node.rooms.presence(ROOM)
        assert len(presence.members) == 3
        assert {member.connections for member in presence.members} == {1}
        assert presence.total == 5

    async def test_members_see_the_newest_info_of_a_user(self, here: Node, there: Node) -> None:
        watcher = await here.visitor("watcher")
        first = await there.visitor("alice", info={"name": "Ä\n"})
        second = await here.visitor("alice", info="second")
        await first.set_info("first")
        await first.set_info("first")
        third = await there.visitor("alice")
        told = [
            ("alice", "joined", {"name": "Ä\n"}),
            ("alice", "updated", "second"),
            ("alice", "updated", "first"),
        ]
        for visitor in (watcher, third):
            assert await visitor.infos() == {"watcher": None, "alice": "first"}
        assert await watcher.told() == told
        await first.leave()
        assert await watcher.infos() == {"watcher": None, "alice": "first"}
        for visitor in (second, third):
            await visitor.leave()
        await there.visitor("alice")
        assert await watcher.infos() == {"watcher": None, "alice": None}
        assert await watcher.told() == [
            *told,
            ("alice", "left", None),
            ("alice", "joined", None),
        ]

    async def test_an_update_is_not_sent_to_its_cause(self, here: Node, there: Node) -> None:
        alice, other = await here.visitor("alice"), await there.visitor("alice")
        await alice.set_info(1)
        assert await other.told() == [("alice", "updated", 1)]
        assert await alice.told() == []

    async def test_an_info_ends_with_a_user_who_returns_at_once(self, here: Node) -> None:
        watcher = await here.visitor("watcher")
        alice = await here.visitor("alice", info="before")
        alice.leave_now()
        await here.visitor("alice")
        assert await watcher.infos() == {"watcher": None, "alice": None}
        assert (await watcher.told())[-1][2] is None

    async def test_an_info_stays_while_another_connection_leaves_and_returns(
        self, here: Node, there: Node
    ) -> None:
        first, second = await there.visitor("alice", info="kept"), await here.visitor("alice")
        second.leave_now()
        await here.visitor("alice")
        await first.leave()
        await here.visitor("alice")
        assert await second.infos() == {"alice": "kept"}

    async def test_an_info_may_become_null_again(self, here: Node, there: Node) -> None:
        alice, other = await here.visitor("alice", info=1), await there.visitor("alice")
        await alice.set_info(None)
        assert await other.infos() == {"alice": None}
        assert await other.told() == [("alice", "updated", None)]

    async def test_only_the_connection_that_set_the_newest_info_gets_no_update(
        self, here: Node
    ) -> None:
        first, second = await here.visitor("alice"), await here.visitor("alice")
        first.set_info_now(1)
        await second.set_info(2)
        newest = ("alice", "updated", 2)
        assert newest in await first.told()
        assert newest not in await second.told()

    async def test_updates_are_not_sent_in_large_rooms(self, make: Callable[..., Node]) -> None:
        node = make(max_members_for_presence_events=2)
        watcher, alice = await node.visitor("watcher"), await node.visitor("alice")
        await alice.set_info(1)
        await node.visitor("bob")
        await alice.set_info(2)
        assert await watcher.told() == [("alice", "joined", None), ("alice", "updated", 1)]
        assert (await watcher.infos())["alice"] == 2

    async def test_rooms_may_have_no_events(self, make: Callable[..., Node]) -> None:
        node = make()
        node.set_options(presence_events=False)
        watcher, alice = await node.visitor("watcher"), await node.visitor("alice", info=1)
        await alice.set_info(2)
        assert await watcher.infos() == {"watcher": None, "alice": 2}
        await alice.leave()
        assert await watcher.seen() == {"watcher": 1}
        assert await watcher.heard() == []

    async def test_rooms_may_have_no_presence(self, make: Callable[..., Node]) -> None:
        node = make()
        node.set_options(presence=False)
        watcher, alice = await node.visitor("watcher"), await node.visitor("alice", info=1)
        await alice.set_info(2)
        with pytest.raises(Forbidden):
            await watcher.seen()
        await alice.leave()
        assert await watcher.heard() == []
        await watcher.leave()
        assert len(node.rooms) == 0

    async def test_an_evicted_user_has_left_on_all_nodes(self, here: Node, there: Node) -> None:
        watcher = await there.visitor("watcher")
        evicted = [await node.visitor("alice") for node in (here, here, there)]
        elsewhere = await there.visitor("alice", room="elsewhere")
        await here.rooms.evict(ROOM, "alice", "spam")

        async def is_gone() -> bool:
            return await watcher.seen() == {"watcher": 1}

        await wait_until_async(is_gone)
        assert await watcher.heard() == ["alice joined", "alice left"]
        for each in evicted:
            with pytest.raises(NotJoined):
                each.check_joined()
            assert [frame for frame in each.frames if frame["type"] == "evicted"] == [
                {"type": "evicted", "room": ROOM, "reason": "spam"}
            ]
        assert await elsewhere.seen() == {"alice": 1}
        await here.visitor("alice")
        assert await watcher.seen() == {"watcher": 1, "alice": 1}

    async def test_very_long_lists_are_truncated(self, make: Callable[..., Node]) -> None:
        node = make(max_members_listed=300)
        await node.visitor("first")
        await node.crowd(600)
        presence = await node.rooms.presence(ROOM)
        assert len(presence.members) == 300
        assert presence.total == 601
