"""The team's policy is asked before every message, and refuses without any other effect."""

import pytest

from app.realtime import Connection, Policy, RealtimeSettings, Service

from ..live import Live, make_settings, run_service


async def test_who_may_not_send_is_told_so_and_stays(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    sender, receiver = await live.connect("alice"), await live.connect("bob")

    def refuse(policy: Policy, service: Service, connection: Connection, to: str) -> bool:
        asked.append((connection.user, to))
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "can_send", refuse)
        for _ in range(2):
            error = await sender.ask(type="send", to=receiver.user, data="secret", id="s")
            assert (error["type"], error["code"], error["id"]) == ("error", "forbidden", "s")
            assert error["retry"] is False
    assert asked == [(sender.user, receiver.user)] * 2
    assert await receiver.is_quiet()
    assert (await sender.ask(type="send", to=receiver.user, data="again"))["type"] == "ok"
    assert (await receiver.receive())["data"] == "again"


async def test_who_may_not_broadcast_is_told_so_and_stays(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    sender, receiver = await live.connect("alice"), await live.connect("bob")

    def refuse(policy: Policy, service: Service, connection: Connection) -> bool:
        asked.append(connection.user)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "can_broadcast", refuse)
        for _ in range(2):
            error = await sender.ask(type="broadcast", data="secret", echo=True)
            assert (error["type"], error["code"]) == ("error", "forbidden")
    assert asked == [sender.user] * 2
    assert await receiver.is_quiet()
    assert await sender.is_quiet()
    assert (await sender.ask(type="broadcast", data="again"))["type"] == "ok"
    assert (await receiver.receive())["data"] == "again"


async def test_out_of_the_box_clients_send_to_each_other_and_not_to_everybody() -> None:
    default = RealtimeSettings.model_fields["clients_may_broadcast"].default
    async with run_service(make_settings(clients_may_broadcast=default)) as live:
        sender, receiver = await live.connect("alice"), await live.connect("bob")
        assert (await sender.ask(type="broadcast", data=1))["code"] == "forbidden"
        assert await receiver.is_quiet()
        assert (await sender.ask(type="send", to=receiver.user, data=2))["type"] == "ok"
        assert (await receiver.receive())["data"] == 2
        # The team's backend is another matter.
        assert (await live.post("/publish", {"data": 3})).status_code == 202
        assert (await receiver.receive())["data"] == 3
