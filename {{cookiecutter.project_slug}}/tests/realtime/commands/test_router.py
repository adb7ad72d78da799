"""Each frame of a client gets its documented answer, and the connection stays open."""

import json
from typing import Literal

import pytest
from structlog.testing import capture_logs

from app.realtime.commands.router import CommandRouter
from app.realtime.policy import Policy
from app.realtime.protocol import Command

from ..live import Live


def broadcast_of(data: str) -> str:
    """Return a broadcast as text, with this text as its ``data``."""
    return '{"type": "broadcast", "data": ' + data + "}"


@pytest.mark.hostile(1, 2, 3, 4, 5, 6, 7, 8, 9)
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("", "bad_request"),
        ("nonsense", "bad_request"),
        ('{"type": "ping"', "bad_request"),
        ("[]", "bad_request"),
        ("null", "bad_request"),
        ("7", "bad_request"),
        ("{}", "bad_request"),
        ('{"type": "nothing"}', "unknown_type"),
        ('{"type": 5}', "unknown_type"),
        ('{"type": "ping", "surplus": 1}', "bad_request"),
        ('{"type": "ping", "id": ""}', "bad_request"),
        ('{"type": "ping", "id": 7}', "bad_request"),
        ('{"type": "ping", "id": "' + "x" * 65 + '"}', "bad_request"),
        ('{"type": "broadcast"}', "bad_request"),
        ('{"type": "broadcast", "data": 1, "echo": 1}', "bad_request"),
        (broadcast_of("NaN"), "bad_request"),
        (broadcast_of("[1e400]"), "bad_request"),
        (broadcast_of('{"deep": -Infinity}'), "bad_request"),
        (broadcast_of('"\\ud800"'), "bad_request"),
        (broadcast_of("9" * 5_000), "bad_request"),
        (broadcast_of("[" * 60_000), "bad_request"),
        ('{"type": "send", "to": "", "data": 1}', "bad_request"),
        ('{"type": "send", "data": 1, "to": "' + "x" * 129 + '"}', "bad_request"),
    ],
)
async def test_an_invalid_frame_gets_an_error(live: Live, frame: str, code: str) -> None:
    client = await live.connect()
    counts = live.counts()
    with capture_logs() as lines:
        await client.send_text(frame)
        error = await client.receive("error")
    assert [(line["event"], line["code"]) for line in lines] == [("commands refused", code)]
    assert live.counts() - counts == {
        "ws_commands_total refused": 1,
        f"ws_command_errors_total {code}": 1,
    }
    assert error["code"] == code
    assert error["id"] is None
    assert error["retry"] is False
    assert len(error["message"]) < 200
    assert await client.is_quiet()


async def test_refusals_with_the_same_code_are_one_log_line(live: Live) -> None:
    client = await live.connect()
    with capture_logs() as lines:
        for kind in ("nothing", "nothing", "ping", "nothing", 5):
            await client.ask(type=kind)
        await client.ask(type="ping", surplus=1)
    assert [line["code"] for line in lines] == ["unknown_type", "bad_request"]


async def test_alternating_refusals_with_two_codes_are_two_log_lines(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "can_send", lambda *_: False)
    client = await live.connect()
    counts = live.counts()
    with capture_logs() as lines:
        for _ in range(50):
            assert (await client.ask(type="nothing"))["code"] == "unknown_type"
            assert (await client.ask(type="send", to="bob", data=1))["code"] == "forbidden"
    assert [line["code"] for line in lines] == ["unknown_type", "forbidden"]
    counted = live.counts() - counts
    assert counted["ws_command_errors_total unknown_type"] == 50
    assert counted["ws_command_errors_total forbidden"] == 50


async def test_an_error_carries_the_id_of_the_command(live: Live) -> None:
    client = await live.connect()
    error = await client.ask(type="broadcast", id="42")
    assert (error["type"], error["code"], error["id"]) == ("error", "bad_request", "42")
    assert "data" in error["message"]


@pytest.mark.hostile(3)
async def test_an_error_does_not_repeat_names_of_the_client(live: Live) -> None:
    client = await live.connect()
    error = await client.ask(**{"type": "ping", "x" * 1_000: 1})
    assert error["code"] == "bad_request"
    assert "xx" not in error["message"]


async def test_a_command_without_id_gets_no_ok(live: Live) -> None:
    client = await live.connect()
    await client.send(type="broadcast", data=1)
    assert await client.is_quiet()


async def test_a_command_with_id_gets_exactly_one_ok(live: Live) -> None:
    client = await live.connect()
    assert await client.ask(type="broadcast", data=1, id="x") == {"type": "ok", "id": "x"}
    assert await client.is_quiet()


async def test_ping_gets_a_pong_with_and_without_id(live: Live) -> None:
    client = await live.connect()
    assert await client.ask(type="ping", id="x") == {"type": "pong", "id": "x"}
    await client.send(type="ping")
    assert await client.receive("pong") == {"type": "pong"}


@pytest.mark.hostile(5)
async def test_the_last_of_duplicate_keys_wins(live: Live) -> None:
    client = await live.connect()
    await client.send_text('{"type": "ping", "id": "first", "id": "last"}')
    assert (await client.receive("pong"))["id"] == "last"


@pytest.mark.hostile(63)
async def test_a_failing_handler_is_an_internal_error_without_detail(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    client = await live.connect()
    monkeypatch.setattr(live.service.backplane, "publish", fail)
    error = await client.ask(type="broadcast", data=1)
    assert error["code"] == "internal"
    assert "secret" not in json.dumps(error)
    assert await client.is_quiet()


class Wave(Command):
    """A custom command."""

    type: Literal["wave"]


class OtherWave(Command):
    """Another model with the same type."""

    type: Literal["wave"]


async def wave(*_: object) -> None:
    pass


@pytest.mark.parametrize("other", [Wave, OtherWave])
def test_one_type_has_one_handler(other: type[Command]) -> None:
    router = CommandRouter()
    router.command(Wave)(wave)
    with pytest.raises(ValueError, match="Wave has a handler for 'wave' already"):
        router.command(other)(wave)
