"""Rules of rooms that return what they must not, or fail."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from app.realtime import Forbidden, Policy, RoomOptions, Service

from ..limits.conftest import Clock, clock
from ..live import make_settings, run_service

__all__ = ["clock"]  # a fixture


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


async def test_an_info_of_the_policy_that_is_too_large_is_not_the_clients_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Policy, "presence_info", lambda *_: "x" * 2_000)
    async with run_service() as live:
        client = await live.connect()
        with capture_logs() as lines:
            assert (await client.ask(type="join", room="lobby"))["code"] == "internal"
        monkeypatch.undo()
        error = await client.ask(type="join", room="lobby", info="x" * 2_000)
    assert lines[0]["event"] == "handler failed"
    assert (error["code"], error["message"][:5]) == ("bad_request", "info:")


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


async def test_an_info_of_the_policy_costs_its_size(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "presence_info", lambda *_: "x" * 998)
    async with run_service(make_settings(max_bytes_per_s=10_000, max_burst_s=1)) as live:
        client = await live.connect()
        answers = [(await client.ask(type="join", room="lobby"))["type"] for _ in range(15)]
    assert answers == ["ok"] * 10 + ["error"] * 5
