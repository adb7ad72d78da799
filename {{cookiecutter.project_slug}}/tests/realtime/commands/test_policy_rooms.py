"""The team's policy for rooms is asked each time, and refuses without any other effect."""

import pytest

from app.realtime import Connection, Policy, Service

from ..live import Live


@pytest.mark.hostile(49)
async def test_who_may_not_join_is_told_so_and_stays(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
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
async def test_who_may_not_publish_is_told_so_each_time_and_stays_a_member(
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
    # Nor is it in the history.
    ok = await sender.ask(type="publish", room="lobby", data="again")
    assert ok["offset"] == stands["offset"] + 1
    assert (await member.receive("message"))["data"] == "again"
