"""The policy is asked before each message; a refused message has no effect."""

import pytest

from app.realtime import Connection, Policy, RealtimeSettings, Service

from ..live import Live, make_settings, run_service


@pytest.mark.parametrize("kind", ["send", "broadcast"])
async def test_a_forbidden_command_has_no_effect(
    live: Live, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[tuple[str, ...]] = []
    sender, receiver = await live.connect("alice"), await live.connect("bob")
    to = [receiver.user] if kind == "send" else []
    command = {"type": kind} | ({"to": receiver.user} if to else {"echo": True})

    def refuse(policy: Policy, service: Service, connection: Connection, *to: str) -> bool:
        asked.append((connection.user, *to))
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Policy, f"can_{kind}", refuse)
        for _ in range(2):
            error = await sender.ask(**command, data="secret", id="s")
            assert (error["type"], error["code"], error["id"]) == ("error", "forbidden", "s")
            assert error["retry"] is False
    assert asked == [(sender.user, *to)] * 2
    assert await receiver.is_quiet()
    assert await sender.is_quiet()
    assert (await sender.ask(**command, data="again"))["type"] == "ok"
    assert (await receiver.receive())["data"] == "again"


async def test_by_default_clients_may_send_but_not_broadcast() -> None:
    default = RealtimeSettings.model_fields["clients_may_broadcast"].default
    async with run_service(make_settings(clients_may_broadcast=default)) as live:
        sender, receiver = await live.connect("alice"), await live.connect("bob")
        assert (await sender.ask(type="broadcast", data=1))["code"] == "forbidden"
        assert await receiver.is_quiet()
        assert (await sender.ask(type="send", to=receiver.user, data=2))["type"] == "ok"
        assert (await receiver.receive())["data"] == 2
        # The backend may broadcast.
        assert (await live.post("/publish", {"data": 3})).status_code == 202
        assert (await receiver.receive())["data"] == 3
