"""The policy for rooms is asked each time; a refusal has no other effect."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pydantic import JsonValue

from app.realtime import Connection, Forbidden, Policy, RoomOptions, Service
from app.realtime.rooms.history import Position

from ..live import BACKEND, Live, make_settings, run_service


@pytest.mark.hostile(49)
async def test_a_forbidden_join_is_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def only_the_lobby(
        policy: Policy, service: Service, connection: Connection, room: str
    ) -> bool:
        asked.append((connection.user, room))
        return room == "lobby"

    monkeypatch.setattr(Policy, "can_join", only_the_lobby)
    client = await live.connect()
    assert (await client.ask(type="join", room="vault"))["code"] == "forbidden"
    assert (await client.ask(type="publish", room="vault", data=1))["code"] == "not_joined"
    assert (await client.ask(type="join", room="lobby"))["type"] == "ok"
    assert asked == [(client.user, "vault"), (client.user, "lobby")]
    assert len(live.service.rooms) == 1


@pytest.mark.hostile(49)
async def test_a_forbidden_publish_is_refused_each_time(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    sender, member = await live.connect("alice"), await live.connect("bob")
    for client in (member, sender):
        stands = await client.ask(type="join", room="lobby")
    assert (await member.receive())["type"] == "joined"

    def refuse(policy: Policy, service: Service, connection: Connection, room: str) -> bool:
        asked.append((connection.user, room))
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "can_publish", refuse)
        for _ in range(2):
            error = await sender.ask(type="publish", room="lobby", data="secret", echo=True)
            assert (error["type"], error["code"]) == ("error", "forbidden")
    assert asked == [(sender.user, "lobby")] * 2
    assert await member.is_quiet()
    assert await sender.is_quiet()
    # The refused message is not in the history.
    ok = await sender.ask(type="publish", room="lobby", data="again")
    assert ok["offset"] == stands["offset"] + 1
    assert (await member.receive("message"))["data"] == "again"


async def shout(
    policy: Policy, service: Service, room: str, sender: str | None, data: JsonValue
) -> JsonValue:
    """Refuse empty data, and change the rest to upper case."""
    await asyncio.sleep(0)
    if not data:
        msg = "silence"
        raise Forbidden(msg)
    return str(data).upper()


def shout_at_once(
    policy: Policy, service: Service, room: str, sender: str | None, data: JsonValue
) -> JsonValue:
    """Do the same without awaiting."""
    if not data:
        msg = "silence"
        raise Forbidden(msg)
    return str(data).upper()


@pytest.mark.parametrize("before_publish", [shout, shout_at_once])
async def test_every_message_to_a_room_passes_before_publish(
    monkeypatch: pytest.MonkeyPatch, before_publish: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Policy, "before_publish", before_publish)
    async with run_service() as live:
        client, member = await live.connect("alice"), await live.connect("bob")
        for each in (client, member):
            assert (await each.ask(type="join", room="lobby"))["type"] == "ok"
        # From a client.
        for number in range(5):
            await client.send(type="publish", room="lobby", data=f"a{number}", id=str(number))
        heard = [(await member.receive("message"))["data"] for _ in range(5)]
        assert heard == ["A0", "A1", "A2", "A3", "A4"]
        assert [(await client.receive("ok"))["id"] for _ in range(5)] == list("01234")
        assert (await client.ask(type="publish", room="lobby", data=""))["code"] == "forbidden"
        # From the backend.
        assert (await live.post("/publish", {"room": "lobby", "data": "b"})).status_code == 202
        assert (await member.receive("message"))["data"] == "B"
        refused = await live.post("/publish", {"room": "lobby", "data": ""})
        assert (refused.status_code, refused.json()["detail"]) == (403, "silence")
        # From the team's code.
        published = await live.service.rooms.publish("lobby", "c")
        message = await member.receive("message")
        assert (message["data"], message["offset"]) == ("C", published.offset)
        with pytest.raises(Forbidden):
            await live.service.rooms.publish("lobby", "")


async def name_of(
    policy: Policy, service: Service, connection: Connection, room: str, info: JsonValue
) -> JsonValue:
    """Take the name from the service, and the status from the client."""
    await asyncio.sleep(0)
    return {"name": connection.user, "status": info}


def name_at_once(
    policy: Policy, service: Service, connection: Connection, room: str, info: JsonValue
) -> JsonValue:
    """Do the same without awaiting."""
    return {"name": connection.user, "status": info}


@pytest.mark.parametrize("presence_info", [name_of, name_at_once])
async def test_the_policy_decides_on_the_info_of_a_user(
    live: Live, monkeypatch: pytest.MonkeyPatch, presence_info: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Policy, "presence_info", presence_info)
    client = await live.connect()
    await client.ask(type="join", room="lobby", info="here")
    (member,) = (await client.ask(type="presence", room="lobby"))["members"]
    assert member["info"] == {"name": client.user, "status": "here"}


async def test_a_user_who_is_evicted_while_the_policy_waits_does_not_join(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, asked, answered = {True}, asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> JsonValue:
        asked.set()
        await answered.wait()
        return None

    monkeypatch.setattr(Policy, "can_join", lambda *_: True in allowed)
    monkeypatch.setattr(Policy, "presence_info", wait)
    client = await live.connect()
    joining = asyncio.create_task(client.ask(type="join", room="lobby"))
    await asked.wait()
    allowed.clear()
    await live.service.rooms.evict("lobby", client.user)
    answered.set()
    assert (await joining)["code"] == "forbidden"
    assert len(live.service.rooms) == 0


async def test_a_user_who_is_evicted_while_the_policy_waits_does_not_publish(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def wait(policy: Policy, service: Service, *message: Any) -> Any:
        asked.set()
        await answered.wait()
        return message[-1]

    service = live.service
    service.rooms.set_policy(partial(wait, Policy(), service), lambda room: RoomOptions())
    client, member = await live.connect("alice"), await live.connect("bob")
    for each in (member, client):
        await each.ask(type="join", room="lobby")
    publishing = asyncio.create_task(client.ask(type="publish", room="lobby", data=1))
    await asked.wait()
    await service.rooms.evict("lobby", client.user)
    answered.set()
    assert (await publishing)["code"] == "not_joined"
    assert [(await member.receive())["type"] for _ in range(2)] == ["joined", "left"]
    assert await member.is_quiet()


def options(policy: Policy, service: Service, room: str) -> RoomOptions:
    """Return what differs from the settings."""
    if room == "stream":
        return RoomOptions(history_messages=3, history_s=60, presence=False)
    if room == "chat":
        return RoomOptions(history_messages=1, history_s=86_400, presence_events=False)
    return RoomOptions()


async def test_rooms_have_options_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "room_options", options)
    async with run_service(make_settings(history_messages=5)) as live:
        first, second = await live.connect("alice"), await live.connect("bob")
        for room, kept in (("stream", 3), ("chat", 1), ("lobby", 5)):
            await first.ask(type="join", room=room)
            for number in range(9):
                await first.ask(type="publish", room=room, data=number)
            answer = await second.ask(type="join", room=room, last=9, info="here")
            assert answer["replayed"] == kept
            answer = await second.ask(type="presence", room=room)
            assert answer.get("total", answer.get("code")) == ("forbidden" if kept == 3 else 2)
        assert (await first.receive("joined"))["room"] == "lobby"
        for room, users, status in (("stream", None, 403), ("chat", 2, 200)):
            state = await live.get(f"/rooms/{room}", key=BACKEND)
            assert (state.json()["offset"], state.json()["users"]) == (9, users)
            members = await live.get(f"/rooms/{room}/members", key=BACKEND)
            assert members.status_code == status
        for room in ("stream", "chat", "lobby"):
            await second.ask(type="leave", room=room)
        assert (await first.receive())["room"] == "lobby"


def keep_a_stream(policy: Policy, service: Service, room: str) -> RoomOptions:
    """Return the options of a stream in docs/extending.md."""
    return RoomOptions(
        history_messages=10_000, history_s=60, history_bytes=1_000_000, presence=False
    )


async def follow_stream(live: Live) -> None:
    """Fill the history of a stream, and return to it while it goes on."""
    rooms, room = live.service.rooms, "stream:1"
    epoch = (await rooms.kept(room)).position.epoch
    await asyncio.gather(*(rooms.publish(room, number) for number in range(1, 10_001)))
    client = await live.connect()
    since = {"epoch": epoch, "offset": 5_000}
    joining = asyncio.create_task(client.ask(type="join", room=room, since=since))
    for number in range(10_001, 10_101):
        await rooms.publish(room, number)
        await asyncio.sleep(0)
    assert (await joining)["recovered"] is True
    got = [await client.receive("message") for _ in range(5_100)]
    expected = [(number, number) for number in range(5_001, 10_101)]
    assert [(frame["offset"], frame["data"]) for frame in got] == expected
    assert await client.is_quiet()
    for offset, kept in ((99, None), (100, 10_000), (10_100, 0), (10_101, None)):
        past = await rooms.kept(room, Position(epoch, offset))
        assert (past.recovered, len(past.messages)) == (kept is not None, kept or 0)
    whole = await (await live.connect()).ask(type="join", room=room, last=10_000)
    assert whole["replayed"] == 10_000


async def test_a_client_recovers_thousands_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "room_options", keep_a_stream)
    async with run_service() as live:
        await follow_stream(live)


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [
        (None, "internal", 500),
        ({"presence": False}, "internal", 500),
        (RoomOptions(history_bytes=1_048_576), "internal", 500),
        (ValueError("no such room"), "internal", 500),
        (Forbidden("no such room"), "forbidden", 403),
    ],
)
async def test_wrong_options_refuse_their_room_alone(
    monkeypatch: pytest.MonkeyPatch, answer: object, code: str, status: int
) -> None:
    asked = []

    def odd(policy: Policy, service: Service, room: str) -> Any:
        asked.append(room)
        if room == "lobby":
            return RoomOptions()
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Policy, "room_options", odd)
    async with run_service() as live:
        client = await live.connect()
        for room, expected in (("odd", code), ("lobby", None), ("odd", code)):
            assert (await client.ask(type="join", room=room)).get("code") == expected
        assert (await live.post("/publish", {"room": "odd", "data": 1})).status_code == status
        for _ in range(3):
            assert (await client.ask(type="publish", room="lobby", data=1))["type"] == "ok"
        assert len(live.service.rooms) == 1
    assert asked.count("lobby") == 1


@pytest.mark.parametrize(
    "values",
    [
        {"history_messages": -1},
        {"history_s": 0},
        {"history_bytes": 0},
        {"history_messages": "100"},
        {"presence": None},
        {"surplus": 1},
    ],
)
def test_room_options_are_validated(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        RoomOptions(**values)


async def test_a_hanging_policy_answers_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(*_: object) -> JsonValue:
        return await asyncio.Event().wait()

    monkeypatch.setattr(Policy, "before_publish", hang)
    async with run_service(make_settings(handler_timeout_s=0.05)) as live:
        answer = await live.post("/publish", {"room": "lobby", "data": 1})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
