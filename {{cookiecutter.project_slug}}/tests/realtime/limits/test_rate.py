"""Rate limits and consecutive errors: commands are refused, then the connection is closed."""

import json

import pytest

from app.realtime.protocol import FLOOD, TOO_MANY_ERRORS, Close

from ..client import Client, Frame
from ..live import Live, make_settings, run_service, wait_until
from .conftest import Clock

SLOW = make_settings(max_messages_per_s=2, max_burst_s=2, max_errors_in_a_row=3)
"""A burst of four messages. ``rate_limited`` does not count as an error in a row."""


async def codes(client: Client, count: int, **command: object) -> list[str]:
    """Send a command ``count`` times; return the error code or the type of each answer."""
    answers: list[Frame] = [await client.ask(**command) for _ in range(count)]
    return [str(answer.get("code", answer["type"])) for answer in answers]


async def closed_as(client: Client) -> Close:
    """Wait for the close."""
    code, reason = await client.closed()
    assert code is not None
    assert reason is not None
    return Close(code, reason)


@pytest.mark.hostile(54)
async def test_a_burst_passes_and_further_commands_are_refused(clock: Clock) -> None:
    async with run_service(SLOW) as live:
        client = await live.connect()
        assert await codes(client, 4, type="ping") == ["pong"] * 4
        error = await client.ask(type="send", to=client.user, data=1, id="5")
        assert (error["type"], error["code"], error["id"]) == ("error", "rate_limited", "5")
        assert error["retry"] is True
        clock.now_s += 2
        assert await client.is_quiet()  # the refused command had no effect
        other = await live.connect("bob")
        assert await codes(other, 4, type="ping") == ["pong"] * 4


async def test_a_client_that_waits_after_a_refusal_goes_on(clock: Clock) -> None:
    async with run_service(SLOW) as live:
        client = await live.connect()
        assert await codes(client, 6, type="ping") == ["pong"] * 4 + ["rate_limited"] * 2
        clock.now_s += 1.5
        assert await codes(client, 4, type="ping") == ["pong"] * 3 + ["rate_limited"]
        clock.now_s += 60
        assert await codes(client, 5, type="ping") == ["pong"] * 4 + ["rate_limited"]


async def test_a_client_within_the_rate_is_never_refused(clock: Clock) -> None:
    async with run_service(SLOW) as live:
        client = await live.connect()
        for _ in range(50):
            assert await codes(client, 2, type="ping") == ["pong"] * 2
            clock.now_s += 1


@pytest.mark.hostile(54)
async def test_a_client_that_ignores_refusals_is_closed_with_4013(clock: Clock) -> None:
    async with run_service(SLOW) as live:
        client = await live.connect()
        other = await live.connect("bob")
        assert await codes(client, 8, type="ping") == ["pong"] * 4 + ["rate_limited"] * 4
        await client.send(type="send", to=other.user, data=1)
        assert await closed_as(client) == FLOOD
        assert await other.is_quiet()
        await wait_until(lambda: len(live.service.manager) == 1)


@pytest.mark.hostile(54)
async def test_a_flood_in_one_write_is_closed_with_4013(clock: Clock) -> None:
    async with run_service(SLOW) as live:
        client = await live.connect()
        for number in range(1_000):
            await client.send(type="ping", id=str(number))
        assert await closed_as(client) == FLOOD
        answers = list(client._unread)
        assert [answer["id"] for answer in answers] == [str(number) for number in range(8)]
        assert [answer["type"] for answer in answers] == ["pong"] * 4 + ["error"] * 4


@pytest.mark.hostile(54)
async def test_bytes_have_their_own_rate(clock: Clock) -> None:
    limits = {"max_bytes_per_s": 1_000, "max_burst_s": 2}
    async with run_service(make_settings(**limits)) as live:
        client = await live.connect()
        # The first message may be of any size.
        assert await codes(client, 1, type="send", to="nobody", data="x" * 3_000) == ["ok"]
        assert await codes(client, 1, type="ping") == ["rate_limited"]
        clock.now_s += 2
        assert await codes(client, 1, type="ping") == ["pong"]
        # Bytes count, not characters.
        clock.now_s += 60
        command = {"type": "send", "to": "nobody", "data": "€" * 700, "id": "ask"}
        await client.send_text(json.dumps(command, ensure_ascii=False))
        assert (await client.receive("ok", "error"))["type"] == "ok"
        assert await codes(client, 1, type="ping") == ["rate_limited"]


async def test_welcome_has_the_rate_limits(live: Live) -> None:
    limits = (await live.connect()).welcome["limits"]
    settings = live.settings
    assert limits["messages_per_s"] == settings.max_messages_per_s
    assert limits["bytes_per_s"] == settings.max_bytes_per_s
    assert limits["burst_s"] == settings.max_burst_s


NONSENSE = ["nonsense", '{"type": "nothing"}', '{"type": "ping", "surplus": 1}', "[]"]


async def send_nonsense(client: Client, count: int) -> None:
    """Send ``count`` invalid frames of all kinds, each of which gets an error."""
    for number in range(count):
        await client.send_text(NONSENSE[number % len(NONSENSE)])
        assert (await client.receive("error"))["code"] in {"bad_request", "unknown_type"}


@pytest.mark.hostile(1)
async def test_errors_in_a_row_close_with_4509() -> None:
    async with run_service(make_settings(max_errors_in_a_row=5)) as live:
        client = await live.connect()
        other = await live.connect("bob")
        await send_nonsense(client, 5)
        assert await closed_as(client) == TOO_MANY_ERRORS
        assert (await other.ask(type="ping"))["type"] == "pong"
        await wait_until(lambda: len(live.service.manager) == 1)


async def test_a_valid_command_resets_the_errors_in_a_row() -> None:
    async with run_service(make_settings(max_errors_in_a_row=5)) as live:
        client = await live.connect()
        for _ in range(3):
            await send_nonsense(client, 4)
            assert (await client.ask(type="ping"))["type"] == "pong"
