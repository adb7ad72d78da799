"""The commands of rooms, over the wire."""

import pytest
from pydantic import JsonValue
from pydantic_core import to_json

from app.realtime.errors import Forbidden
from app.realtime.limits import budget
from app.realtime.policy import Policy

from ..client import Client, Frame
from ..live import BACKEND, Live, make_settings, run_service


async def join(live: Live, user: str, room: str) -> Client:
    client = await live.connect(user)
    assert (await client.ask(type="join", room=room))["type"] == "ok"
    return client


async def test_join_returns_the_position_of_the_room(live: Live) -> None:
    client = await live.connect()
    ok = await client.ask(type="join", room="lobby", id="j")
    assert ok == {
        "type": "ok",
        "id": "j",
        "room": "lobby",
        "epoch": ok["epoch"],
        "offset": ok["offset"],
        "recovered": None,
        "replayed": 0,
    }
    published = await client.ask(type="publish", room="lobby", data=1)
    assert published["offset"] == ok["offset"] + 1
    other = await live.connect("bob")
    again = await other.ask(type="join", room="lobby")
    assert (again["epoch"], again["offset"]) == (ok["epoch"], ok["offset"] + 1)


def since(ok: Frame, missed: int = 0) -> Frame:
    """Return the position in an answer, or ``missed`` messages before it."""
    return {"epoch": ok["epoch"], "offset": ok["offset"] - missed}


async def test_missed_messages_precede_newer_ones(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    latest = await sender.ask(type="join", room="lobby")
    for number in range(5):
        await sender.ask(type="publish", room="lobby", data=number)
    visitor = await live.connect("bob")
    await visitor.send(type="join", room="lobby", since=since(latest), id="back")
    await sender.ask(type="publish", room="lobby", data=5)
    ok = await visitor.receive()
    assert (ok["id"], ok["recovered"]) == ("back", True)
    offset = latest["offset"]
    assert 5 <= ok["replayed"] <= 6
    assert ok["offset"] == offset + ok["replayed"]
    for number in range(6):
        message = await visitor.receive()
        assert (message["data"], message["offset"]) == (number, offset + number + 1)
        assert (message["from"], message["room"]) == (sender.user, "lobby")
    assert await visitor.is_quiet()


async def test_missed_messages_are_replayed_without_an_id(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    latest = await sender.ask(type="join", room="lobby")
    await sender.ask(type="publish", room="lobby", data="missed")
    visitor = await live.connect("bob")
    await visitor.send(type="join", room="lobby", since=since(latest))
    assert (await visitor.receive())["data"] == "missed"


async def test_the_last_messages_follow_the_answer_to_a_join(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    for number in range(5):
        latest = await sender.ask(type="publish", room="lobby", data=number)
    await sender.ask(type="publish", room="lobby", data="ephemeral", keep=False)
    visitor = await live.connect("bob")
    counts = live.counts()
    ok = await visitor.ask(type="join", room="lobby", last=2)
    assert (ok["recovered"], ok["replayed"], ok["offset"]) == (None, 2, latest["offset"])
    assert (live.counts() - counts)["ws_messages_replayed_total"] == 2
    await sender.ask(type="publish", room="lobby", data=5)
    for number in (3, 4, 5):
        message = await visitor.receive("message")
        assert (message["data"], message["offset"]) == (number, latest["offset"] + number - 4)
    ok = await visitor.ask(type="join", room="lobby", last=2)
    assert (ok["recovered"], ok["replayed"]) == (None, 0)
    assert await visitor.is_quiet()


@pytest.mark.parametrize(
    "fields",
    [
        {"last": -1},
        {"last": True},
        {"last": 1.5},
        {"last": 2**53},
        {"last": None},
        {"last": 1, "since": {"epoch": "e", "offset": 0}},
    ],
)
async def test_a_bad_number_of_last_messages_is_refused(live: Live, fields: Frame) -> None:
    client = await live.connect()
    error = await client.ask(type="join", room="lobby", **fields)
    assert (error["code"], error["message"].partition(":")[0]) == ("bad_request", "last")
    assert len(live.service.rooms) == 0


async def test_an_unknown_position_is_not_recovered(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    await sender.ask(type="publish", room="lobby", data=1)
    latest = await sender.ask(type="join", room="lobby")
    for position in ({"epoch": "another", "offset": 0}, since(latest, missed=-1)):
        visitor = await live.connect("bob")
        ok = await visitor.ask(type="join", room="lobby", since=position)
        assert (ok["recovered"], ok["replayed"]) == (False, 0)
        assert since(ok) == since(latest)
        assert await visitor.is_quiet()


async def test_joining_again_does_not_duplicate_messages(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    await sender.ask(type="publish", room="lobby", data="before")
    member = await live.connect("bob")
    entered = await member.ask(type="join", room="lobby")
    await sender.ask(type="publish", room="lobby", data="seen")
    ok = await member.ask(type="join", room="lobby", since=since(entered))
    assert (ok["recovered"], ok["replayed"], ok["offset"]) == (True, 0, entered["offset"] + 1)
    assert (await member.receive("message"))["data"] == "seen"
    assert await member.is_quiet()
    earlier = await member.ask(type="join", room="lobby", since=since(entered, missed=1))
    assert (earlier["recovered"], earlier["replayed"]) == (False, 0)
    await member.ask(type="leave", room="lobby")
    await member.ask(type="join", room="lobby", since=since(entered, missed=1))
    assert [(await member.receive("message"))["data"] for _ in range(2)] == ["before", "seen"]


@pytest.mark.parametrize(
    "position",
    [
        {},
        {"epoch": "e"},
        {"epoch": "", "offset": 0},
        {"epoch": "e" * 65, "offset": 0},
        {"epoch": "e", "offset": -1},
        {"epoch": "e", "offset": 2**53},
        {"epoch": "e", "offset": True},
        {"epoch": "e", "offset": "0"},
    ],
)
async def test_a_bad_position_is_refused(live: Live, position: Frame) -> None:
    client = await live.connect()
    error = await client.ask(type="join", room="lobby", since=position)
    assert error["code"] == "bad_request"
    assert len(live.service.rooms) == 0


async def test_without_history_a_rejoin_reports_missed_messages() -> None:
    async with run_service(make_settings(history_messages=0)) as live:
        sender = await join(live, "alice", "lobby")
        published = await sender.ask(type="publish", room="lobby", data=1, echo=True)
        assert published["offset"] == (await sender.receive("message"))["offset"] == 1
        latest = await sender.ask(type="join", room="lobby")
        visitor = await live.connect("bob")
        ok = await visitor.ask(type="join", room="lobby", since=since(latest))
        assert (ok["recovered"], ok["replayed"], ok["offset"]) == (True, 0, 1)
        visitor = await live.connect("bob")
        ok = await visitor.ask(type="join", room="lobby", since=since(latest, missed=1))
        assert (ok["recovered"], ok["replayed"], ok["offset"]) == (False, 0, 1)


@pytest.mark.parametrize("echo", [False, True])
async def test_publish_reaches_only_the_room(live: Live, echo: bool) -> None:
    sender = await join(live, "alice", "lobby")
    member = await join(live, "bob", "lobby")
    stranger = await live.connect("bob")
    await sender.is_quiet()
    latest = await sender.ask(type="join", room="lobby")
    answer = await sender.ask(type="publish", room="lobby", data=[1], echo=echo, id="p")
    assert answer == {"type": "ok", "id": "p", "offset": latest["offset"] + 1}
    message = {
        "type": "message",
        "from": sender.user,
        "data": [1],
        "room": "lobby",
        "offset": answer["offset"],
    }
    assert await member.receive("message") == message
    if echo:
        assert await sender.receive("message") == message
    assert await stranger.is_quiet()


async def test_an_ephemeral_message_has_no_offset_and_is_not_replayed(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    member = await join(live, "bob", "lobby")
    latest = await sender.ask(type="join", room="lobby")
    answer = await sender.ask(type="publish", room="lobby", data=1, keep=False, id="p")
    assert answer == {"type": "ok", "id": "p", "offset": None}
    assert await member.receive("message") == {
        "type": "message",
        "from": sender.user,
        "data": 1,
        "room": "lobby",
        "offset": None,
    }
    kept = await sender.ask(type="publish", room="lobby", data=2)
    assert kept["offset"] == latest["offset"] + 1
    visitor = await live.connect("bob")
    ok = await visitor.ask(type="join", room="lobby", since=since(latest))
    assert (ok["recovered"], ok["replayed"]) == (True, 1)
    assert (await visitor.receive("message"))["data"] == 2


async def test_a_repeated_publication_is_answered_like_the_first(live: Live) -> None:
    sender, member = await join(live, "alice", "lobby"), await join(live, "bob", "lobby")
    command = {"type": "publish", "room": "lobby", "key": "key-of-a-room"}
    first = await sender.ask(**command, data=1)
    await sender.ask(type="publish", room="lobby", data=2)
    assert await sender.ask(**command, data=1) == first
    assert (await sender.ask(**command, data=3))["code"] == "bad_request"
    ephemeral = command | {"key": "key-of-an-ephemeral", "keep": False}
    for _ in range(2):
        assert (await sender.ask(**ephemeral, data=4))["offset"] is None
    assert [(await member.receive("message"))["data"] for _ in range(3)] == [1, 2, 4]
    assert await member.is_quiet()


async def test_a_message_that_the_policy_refused_may_be_repeated() -> None:
    class Closed(Policy):
        is_open = False

        async def before_publish(self, *message: object) -> JsonValue:
            if not self.is_open:
                raise Forbidden
            return "changed"

    policy = Closed()
    async with run_service(policy=policy) as live:
        sender = await join(live, "alice", "lobby")
        command = {"type": "publish", "room": "lobby", "data": 1, "key": "key", "echo": True}
        assert (await sender.ask(**command))["code"] == "forbidden"
        policy.is_open = True
        for _ in range(2):
            assert (await sender.ask(**command))["offset"] == 1
        assert (await sender.receive("message"))["data"] == "changed"
        assert await sender.is_quiet()


async def test_nothing_is_delivered_after_leave(live: Live) -> None:
    sender = await join(live, "alice", "lobby")
    former = await join(live, "bob", "lobby")
    await former.ask(type="leave", room="lobby")
    await sender.ask(type="publish", room="lobby", data=1)
    assert await former.is_quiet()


@pytest.mark.hostile(50)
async def test_leave_and_join_are_idempotent(live: Live) -> None:
    client = await live.connect()
    assert (await client.ask(type="leave", room="lobby"))["type"] == "ok"
    for _ in range(2):
        assert (await client.ask(type="join", room="lobby"))["type"] == "ok"
    await client.ask(type="leave", room="lobby")
    assert len(live.service.rooms) == 0


@pytest.mark.hostile(48)
@pytest.mark.parametrize("command", ["publish", "presence"])
async def test_only_members_may_publish_and_list_members(live: Live, command: str) -> None:
    client = await live.connect()
    extra = {"data": 1} if command == "publish" else {}
    assert (await client.ask(type=command, room="lobby", **extra))["code"] == "not_joined"


@pytest.mark.hostile(47)
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
    expected = [{"user": client.user, "connections": 1, "info": None} for client in (first, other)]
    assert sorted(members, key=str) == sorted(expected, key=str)


async def test_joined_and_left_are_sent_once_per_user(live: Live) -> None:
    watcher = await join(live, "alice", "lobby")
    visitor = await join(live, "bob", "lobby")
    event = {"room": "lobby", "user": visitor.user}
    assert await watcher.receive() == {"type": "joined", **event, "info": None}
    assert await visitor.is_quiet()
    await visitor.close()
    assert await watcher.receive() == {"type": "left", **event}


INFO = {"name": "Bob", "status": "away"}


async def test_members_see_the_info_of_a_user(live: Live) -> None:
    watcher, visitor = await join(live, "alice", "lobby"), await live.connect("bob")
    event = {"room": "lobby", "user": visitor.user}
    for info, kind in ((INFO, "joined"), ("here", "updated")):
        assert (await visitor.ask(type="join", room="lobby", info=info))["type"] == "ok"
        assert await watcher.receive() == {"type": kind, **event, "info": info}
        members = (await watcher.ask(type="presence", room="lobby"))["members"]
        assert {each["user"]: each["info"] for each in members} == {
            watcher.user: None,
            visitor.user: info,
        }
    for more in ({"info": "here"}, {"info": None}, {}):  # nothing changes
        await visitor.ask(type="join", room="lobby", **more)
    assert await watcher.is_quiet()
    assert await visitor.is_quiet()


async def test_an_info_has_at_most_a_kibibyte(live: Live) -> None:
    client = await live.connect()
    for info, is_small in (("x" * 1_022, True), ("x" * 1_023, False), ([1e15] * 60, False)):
        answer = await client.ask(type="join", room="lobby", info=info)
        assert (answer["type"] == "ok") == is_small
        if not is_small:
            assert answer["code"] == "bad_request"
            assert answer["message"].startswith("info: has ")


async def test_an_info_is_charged_like_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "monotonic", lambda: 1_000.0)
    limits = {"max_bytes_per_s_per_target": 2_000, "max_burst_s": 1}
    async with run_service(make_settings(**limits)) as live:
        client = await live.connect()
        answers = [
            await client.ask(type="join", room="lobby", info=f"{number}" * 900)
            for number in range(5)
        ]
        assert answers[0]["type"] == "ok"
        assert answers[-1]["code"] == "rate_limited"
        assert (await client.ask(type="join", room="other", info="x"))["type"] == "ok"


async def test_the_answer_to_presence_is_no_larger_than_a_message() -> None:
    async with run_service(make_settings(max_message_bytes=1_500)) as live:
        for name in ("alice", "bob"):
            client = await live.connect(name)
            await client.ask(type="join", room="lobby", info="x" * 900)
        answer = await client.ask(type="presence", room="lobby")
        assert (len(answer["members"]), answer["total"]) == (1, 2)
        listed = (await live.get("/rooms/lobby/members", key=BACKEND)).json()
        assert (listed["members"], listed["total"]) == (answer["members"], 2)


async def test_the_answer_to_presence_leaves_space_for_the_longest_id() -> None:
    async with run_service(make_settings(max_message_bytes=1_400)) as live:
        client = await live.connect()
        await client.ask(type="join", room="lobby", info="x" * 1_000)
        await client.send(type="presence", room="lobby", id="\x01" * 64)
        answer = await client.receive("ok")
        assert answer["total"] == 1
        assert len(to_json(answer)) <= 1_400


async def test_a_backend_evicts_a_user_from_a_room(live: Live) -> None:
    watcher = await join(live, "alice", "lobby")
    first = await join(live, "bob", "lobby")
    second = await live.connect_with(await live.options("bob"))
    await second.ask(type="join", room="other")
    assert (await watcher.receive("joined"))["user"] == first.user
    body = {"user": first.user, "reason": "spam"}
    for _ in range(2):  # the second time, nobody is there
        assert (await live.post("/rooms/lobby/evict", body)).status_code == 202
    assert await first.receive() == {"type": "evicted", "room": "lobby", "reason": "spam"}
    assert await watcher.receive() == {"type": "left", "room": "lobby", "user": first.user}
    assert (await first.ask(type="publish", room="lobby", data=1))["code"] == "not_joined"
    assert (await watcher.ask(type="presence", room="lobby"))["total"] == 1
    assert (await second.ask(type="publish", room="other", data=1))["type"] == "ok"
    await watcher.ask(type="publish", room="lobby", data=1)
    assert await first.is_quiet()
    assert (await first.ask(type="join", room="lobby"))["type"] == "ok"


async def test_evict_needs_the_key_a_room_and_a_user(live: Live) -> None:
    body = {"user": "alice"}
    assert (await live.post("/rooms/lobby/evict", body, key="wrong")).status_code == 401
    assert (await live.post("/rooms/-/evict", body)).status_code == 422
    for bad in ({}, {"user": ""}, body | {"reason": 1}, body | {"reason": "x" * 257}):
        assert (await live.post("/rooms/lobby/evict", bad)).status_code == 422


async def test_a_backend_publishes_to_a_room(live: Live) -> None:
    member = await join(live, "alice", "lobby")
    stranger = await live.connect("bob")
    assert (await live.post("/publish", {"data": 1, "room": "lobby"})).status_code == 202
    message = await member.receive("message")
    assert (message["from"], message["room"], message["data"]) == (None, "lobby", 1)
    assert await stranger.is_quiet()
    assert (await live.post("/publish", {"data": 1, "room": "no/room"})).status_code == 422


@pytest.mark.hostile(51)
async def test_rooms_per_connection_are_limited() -> None:
    async with run_service(make_settings(max_rooms_per_connection=2)) as live:
        client = await live.connect()
        assert client.welcome["limits"]["rooms"] == 2
        await client.ask(type="join", room="a")
        await client.ask(type="join", room="b")
        assert (await client.ask(type="join", room="c"))["code"] == "limit_exceeded"
        assert (await client.ask(type="join", room="a"))["type"] == "ok"
        await client.ask(type="leave", room="a")
        assert (await client.ask(type="join", room="c"))["type"] == "ok"
