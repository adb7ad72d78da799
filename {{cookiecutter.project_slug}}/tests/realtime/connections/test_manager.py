"""Messages to a connection, a user and all users; connections per user."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import pytest
from pydantic import Field

from app.realtime import ServerFrame
from app.realtime.backplane import Backplane
from app.realtime.connections.delivery import Delivery
from app.realtime.connections.manager import ConnectionManager
from app.realtime.errors import TooManyConnections
from app.realtime.protocol import REPLACED

from ..live import Live, make_settings, wait_until_async
from ..recording_wire import open_connection


async def test_send_reaches_every_connection_of_one_user(live: Live) -> None:
    sender = await live.connect("alice")
    receiver = await live.connect("bob")
    answer = await sender.ask(type="send", to=receiver.user, data={"text": "hi"}, id="1")
    assert answer == {"type": "ok", "id": "1", "reached": 1}
    message = await receiver.receive()
    assert message == {"type": "message", "from": sender.user, "data": {"text": "hi"}, "to": "user"}
    assert await sender.is_quiet()


async def test_send_to_oneself_is_delivered(live: Live) -> None:
    client = await live.connect("alice")
    await client.send(type="send", to=client.user, data=1)
    assert (await client.receive("message"))["from"] == client.user


async def test_send_to_an_absent_user_is_accepted(live: Live) -> None:
    client = await live.connect("alice")
    answer = await client.ask(type="send", to="nobody", data=1, id="1")
    assert answer == {"type": "ok", "id": "1", "reached": 0}


@pytest.mark.parametrize("echo", [False, True])
async def test_broadcast_reaches_all_and_the_sender_on_request(live: Live, echo: bool) -> None:
    sender = await live.connect("alice")
    others = [await live.connect("alice"), await live.connect("bob")]
    await sender.ask(type="broadcast", data="news", echo=echo)
    for other in others:
        message = await other.receive()
        assert message == {"type": "message", "from": sender.user, "data": "news", "to": "all"}
    assert await sender.is_quiet() is not echo


async def test_the_service_can_send_to_a_connection_a_user_or_all(live: Live) -> None:
    alice = await live.connect("alice")
    bob = await live.connect("bob")
    manager = live.service.manager
    await manager.send_to_user(alice.user, "to the user")
    await manager.send_to_user(bob.user, "to others", exclude=bob.welcome["connection"])
    await manager.broadcast("to all", exclude=bob.welcome["connection"])
    assert manager.send_to_connection(alice.welcome["connection"], "to the connection")
    assert not manager.send_to_connection("unknown", 1)
    received = [await alice.receive("message") for _ in range(3)]
    assert {message["data"] for message in received} == {
        "to the user",
        "to all",
        "to the connection",
    }
    assert all(message["from"] is None for message in received)
    assert await bob.is_quiet()


@dataclass(slots=True, kw_only=True)
class Notice(ServerFrame):
    """A frame of the team's own."""

    type: Literal["notice"] = "notice"
    text: str
    sender: Annotated[str | None, Field(serialization_alias="from")] = None


async def test_frames_of_the_team_reach_users_or_all_unchanged(live: Live) -> None:
    alice, bob = await live.connect("alice"), await live.connect("bob")
    manager = live.service.manager
    frame = Notice(text="ü\n")
    assert await manager.send_frame(frame) == []
    assert await manager.send_frame(frame, alice.user, "nobody") == [1, 0]
    assert await manager.send_frame(frame, alice.user, bob.user) == [1, 1]
    await manager.broadcast_frame(frame, exclude=alice.welcome["connection"])
    for client in (alice, bob):
        for _ in range(2):
            assert await client.receive() == {"type": "notice", "text": "ü\n", "from": None}
        assert await client.is_quiet()


async def test_the_manager_knows_who_is_online(live: Live) -> None:
    client = await live.connect("alice")
    manager = live.service.manager
    assert await manager.is_online(client.user)
    assert not await manager.is_online("nobody")
    await client.close()
    await wait_until_async(partial(is_offline, live, client.user))


async def is_offline(live: Live, user: str) -> bool:
    return not await live.service.manager.is_online(user)


async def test_any_json_is_delivered_unchanged(live: Live) -> None:
    data: list[object] = [None, True, -1, 1.5, "🎈 ünï \u0000 </script>", {"a": [], "": {}}]
    client = await live.connect("alice")
    await client.send(type="send", to=client.user, data=data)
    assert (await client.receive("message"))["data"] == data


@pytest.mark.hostile(62)
async def test_messages_of_one_sender_stay_in_order(live: Live) -> None:
    sender = await live.connect("alice")
    receiver = await live.connect("bob")
    for number in range(200):
        await sender.send(type="broadcast", data=number)
    received = [(await receiver.receive("message"))["data"] for _ in range(200)]
    assert received == list(range(200))


def make_manager(**settings: object) -> ConnectionManager:
    return ConnectionManager(make_settings(**settings), Backplane(), Delivery())


@pytest.mark.hostile(53)
async def test_the_newest_connection_replaces_the_oldest_of_its_user() -> None:
    manager = make_manager(max_connections_per_user=2)
    connections = [open_connection() for _ in range(3)]
    for connection in (*connections, open_connection(user="bob")):
        await manager.add(connection)
        manager.replace_older(connection)
    assert [connection.closed for connection in connections] == [REPLACED, None, None]


@pytest.mark.hostile(53)
async def test_the_newest_connection_is_refused_if_configured() -> None:
    manager = make_manager(max_connections_per_user=1, user_limit_policy="refuse_newest")
    first = open_connection()
    await manager.add(first)
    with pytest.raises(TooManyConnections):
        await manager.add(open_connection())
    assert list(manager) == [first]
    await manager.add(open_connection(user="bob"))
    manager.remove(first)
    await manager.add(open_connection())
