"""Clients that send at, above and far above the rate."""

from contextlib import suppress

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from app.realtime.limits.budget import MAX_REFUSALS_LOGGED, ClientLimits, UserBudget
from app.realtime.policy import Policy
from app.realtime.protocol import FLOOD

from ..live import Live, run_service
from ..raw_client import PING, masked, raw_client
from .conftest import Clock
from .test_rate import SLOW, closed_as, codes


async def test_a_client_above_the_rate_gets_what_the_rate_allows(clock: Clock) -> None:
    async with run_service(SLOW) as live:
        client = await live.connect()
        answers = []
        for _ in range(50):
            answers += await codes(client, 3, type="ping")
            clock.now_s += 1
        assert answers.count("pong") == 2 * 50 + 2
        assert answers[-3:] == ["pong", "pong", "rate_limited"]


@pytest.mark.hostile(54)
async def test_a_client_at_more_than_twice_the_rate_is_closed_in_the_end(clock: Clock) -> None:
    async with run_service(SLOW) as live:
        client = await live.connect()
        with suppress(ConnectionClosed):
            for _ in range(20):
                await codes(client, 5, type="ping")
                clock.now_s += 1
        assert await closed_as(client) == FLOOD


async def test_the_log_tells_who_floods_with_control_frames(clock: Clock) -> None:
    async with run_service(SLOW) as live, raw_client(await live.options()) as client:
        await client.upgraded()
        welcome = await client.text()
        with capture_logs() as lines:
            client.send(masked(b"", PING) * 100)
            assert await client.close_code() == FLOOD.code
    (rejected,) = [line for line in lines if line["event"] == "connection rejected"]
    assert {name: rejected[name] for name in ("connection", "user", "reason")} == {
        "connection": welcome["connection"],
        "user": welcome["user"],
        "reason": FLOOD.reason,
    }


async def test_refusals_are_not_errors_in_a_row(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await live.connect()
    monkeypatch.setattr(Policy, "can_send", lambda *_: False)
    count = 2 * live.settings.max_errors_in_a_row
    assert await codes(client, count, type="send", to="bob", data=1) == ["forbidden"] * count


def test_logged_kinds_of_refusal_are_bounded() -> None:
    alice = ClientLimits(SLOW, UserBudget(SLOW))
    kinds = [f"kind {number}" for number in range(2 * MAX_REFUSALS_LOGGED)]
    first = [alice.is_first_refusal(kind) for kind in kinds + kinds]
    assert first == [True] * MAX_REFUSALS_LOGGED + [False] * 3 * MAX_REFUSALS_LOGGED
