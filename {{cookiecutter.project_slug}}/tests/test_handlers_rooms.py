"""What clients can ask of rooms, over the wire."""

import pytest

from app import policy
from app.auth import Identity

from .client import Client
from .live import Live


async def join(live: Live, user: str, room: str) -> Client:
    client = await live.connect(user)
    assert (await client.ask(type="join", room=room))["type"] == "ok"
    return client


async def test_join_tells_the_room_and_that_no_history_is_kept(live: Live) -> None:
    client = await live.connect()
    assert await client.ask(type="join", room="lobby", id="j") == {
        "type": "ok",
        "id": "j",
        "room": "lobby",
        "epoch": None,
        "offset": None,
        "recovered": None,
        "replayed": 0,
    }
    again = await client.ask(type="join", room="lobby", since={"epoch": "e", "offset": 3})
    assert again["recovered"] is False


@pytest.mark.parametrize("echo", [False, True])
async def test_publish_reaches_the_room_and_nobody_else(live: Live, echo: bool) -> None:
    sender = await join(live, "alice", "lobby")
    member = await join(live, "bob", "lobby")
    stranger = await live.connect("bob")
    await sender.is_quiet()
    answer = await sender.ask(type="publish", room="lobby", data=[1], echo=echo, id="p")
    assert answer == {"type": "ok", "id": "p", "offset": None}
    message = {
        "type": "message",
        "from": sender.user,
        "data": [1],
        "room": "lobby",
        "offset": None,
    }
    assert await member.receive("message") == message
    if echo:
        assert await sender.receive("message") == message
    assert await stranger.is_quiet()


async def test_after_leave_nothing_comes(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    former = await join(live, "bob", "lobby")
    await former.ask(type="leave", room="lobby")
    await sender.ask(type="publish", room="lobby", data=1)
    assert await former.is_quiet()


async def test_leave_and_join_are_idempotent(live: Live) -> None:
    client = await live.connect()
    assert (await client.ask(type="leave", room="lobby"))["type"] == "ok"
    for _ in range(2):
        assert (await client.ask(type="join", room="lobby"))["type"] == "ok"
    await client.ask(type="leave", room="lobby")
    assert len(live.service.rooms) == 0


@pytest.mark.parametrize("command", ["publish", "presence"])
async def test_only_members_may(live: Live, command: str) -> None:
    client = await live.connect()
    extra = {"data": 1} if command == "publish" else {}
    assert (await client.ask(type=command, room="lobby", **extra))["code"] == "not_joined"


@pytest.mark.parametrize(
    "room", ["", "x" * 65, "../etc", "a/b", "a b", "a\nb", "*", "-a", "lobby\n", "löbby", "\u0000"]
)
async def test_bad_names_are_refused(live: Live, room: str) -> None:
    client = await live.connect()
    error = await client.ask(type="join", room=room)
    assert error["code"] == "bad_room"
    assert len(live.service.rooms) == 0


async def test_presence_counts_connections_by_user(live: Live) -> None:
    first = await join(live, "alice", "lobby")
    other = await join(live, "bob", "lobby")
    assert (await first.receive("joined"))["user"] == other.user
    members = (await first.ask(type="presence", room="lobby"))["members"]
    expected = [{"user": client.user, "connections": 1} for client in (first, other)]
    assert sorted(members, key=str) == sorted(expected, key=str)


async def test_joined_and_left_are_told_to_the_others_once_per_user(live: Live) -> None:
    watcher = await join(live, "alice", "lobby")
    visitor = await join(live, "bob", "lobby")
    assert await watcher.receive() == {"type": "joined", "room": "lobby", "user": visitor.user}
    assert await visitor.is_quiet()
    await visitor.close()
    assert await watcher.receive() == {"type": "left", "room": "lobby", "user": visitor.user}


async def test_the_policy_decides_who_may_join(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def only_the_lobby(identity: Identity, room: str) -> bool:
        asked.append((identity.user, room))
        return room == "lobby"

    monkeypatch.setattr(policy, "can_join", only_the_lobby)
    client = await live.connect()
    assert (await client.ask(type="join", room="vault"))["code"] == "forbidden"
    assert (await client.ask(type="join", room="lobby"))["type"] == "ok"
    assert asked == [(client.user, "vault"), (client.user, "lobby")]
    assert len(live.service.rooms) == 1


async def test_a_backend_publishes_to_a_room(live: Live) -> None:
    member = await join(live, "alice", "lobby")
    stranger = await live.connect("bob")
    assert (await live.post("/publish", {"data": 1, "room": "lobby"})).status_code == 202
    message = await member.receive("message")
    assert (message["from"], message["room"], message["data"]) == (None, "lobby", 1)
    assert await stranger.is_quiet()
    assert (await live.post("/publish", {"data": 1, "room": "no/room"})).status_code == 422
