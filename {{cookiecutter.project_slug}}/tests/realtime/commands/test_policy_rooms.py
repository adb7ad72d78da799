"""The policy for rooms is asked for each command; a refused command has no effect."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import JsonValue
from structlog.testing import capture_logs

from app.realtime import Connection, Forbidden, Policy, RoomOptions, Service

from ..engine import make_app
from ..http.test_errors import ANSWERS, described, mapping
from ..live import BACKEND, Live, make_settings, run_app, run_service


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
        latest = await client.ask(type="join", room="lobby")
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
    assert ok["offset"] == latest["offset"] + 1
    assert (await member.receive("message"))["data"] == "again"


def shout_at_once(
    policy: Policy, service: Service, room: str, sender: str | None, data: JsonValue, keep: bool
) -> JsonValue:
    """Refuse empty data, change the rest to upper case, and say whether it is kept."""
    if not data:
        raise Forbidden("silence")
    return str(data).upper() if keep else f"{data}, not kept"


async def shout(*message: Any) -> JsonValue:
    await asyncio.sleep(0)
    return shout_at_once(*message)


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
        received = [(await member.receive("message"))["data"] for _ in range(5)]
        assert received == ["A0", "A1", "A2", "A3", "A4"]
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
        await live.service.rooms.publish("lobby", "c", keep=False)
        await client.send(type="publish", room="lobby", data="a", keep=False)
        received = [(await member.receive("message"))["data"] for _ in range(2)]
        assert received == ["c, not kept", "a, not kept"]


async def name_of(
    policy: Policy, service: Service, connection: Connection, room: str, info: JsonValue
) -> JsonValue:
    """Take the name from the service, and the status from the client."""
    await asyncio.sleep(0)
    return {"name": connection.user, "status": info}


def name_at_once(
    policy: Policy, service: Service, connection: Connection, room: str, info: JsonValue
) -> JsonValue:
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


async def test_a_hanging_policy_answers_503(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> JsonValue:
        return await asyncio.Event().wait()

    monkeypatch.setattr(Policy, "before_publish", hang)
    async with run_service(make_settings(handler_timeout_s=0.05)) as live:
        answer = await live.post("/publish", {"room": "lobby", "data": 1})
        assert described(answer) == (503, "the command took too long")
        assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("waits", [False, True])
async def test_errors_of_a_policy_have_their_status(waits: bool) -> None:
    failures = iter(ANSWERS)

    class Refusing(Policy):
        def before_publish(self, *_: object) -> None:
            raise next(failures)

    class RefusingLater(Policy):
        async def before_publish(self, *_: object) -> None:
            raise next(failures)

    policy = RefusingLater() if waits else Refusing()
    async with run_app(make_app(make_settings(), policy=policy, commands=mapping())) as live:
        with capture_logs():
            body = {"room": "lobby", "data": 1}
            answers = [await live.post("/publish", body) for _ in ANSWERS]
    assert [described(answer) for answer in answers] == list(ANSWERS.values())
