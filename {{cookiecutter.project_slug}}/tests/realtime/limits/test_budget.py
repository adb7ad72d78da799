"""Budgets: the cost of a command is charged to its connection and to its user."""

import pytest

from app.realtime.policy import Policy

from ..client import Client, Frame
# {% if cookiecutter.auth != "none" %}
from ..live import Live, make_settings, run_service, wait_until
# {% else %}
from ..live import Live, make_settings, run_service
# {% endif %}
from .conftest import Clock

BURST_S = 2


async def pings_until_refused(client: Client, at_most: int = 1_000) -> tuple[int, Frame]:
    """Return how many pings are answered before one is refused, and the refusal."""
    for count in range(at_most):
        answer = await client.ask(type="ping")
        if answer["type"] != "pong":
            return count, answer
    pytest.fail("no ping is refused")


def send_command(size: int, value: str = "1") -> str:
    """Return a command of about this size; its data is a list that repeats this value."""
    values = ",".join([value] * (size // (len(value) + 1)))
    return '{"type": "send", "to": "nobody", "id": "ask", "data": [' + values + "]}"


async def answer_to(client: Client, frame: str) -> Frame:
    """Send a frame with the id ``ask``; return its answer."""
    await client.send_text(frame)
    return await client.receive("ok", "error")


# {% if cookiecutter.auth != "none" %}
async def test_the_connections_of_a_user_share_a_budget(clock: Clock) -> None:
    # A timer forgets a budget that is paid off; ten seconds leave time for the test.
    settings = make_settings(max_messages_per_s_per_user=1, max_burst_s=10)
    async with run_service(settings) as live:
        first, second = await live.connect(), await live.connect()
        assert [(await first.ask(type="ping"))["type"] for _ in range(6)] == ["pong"] * 6
        count, refusal = await pings_until_refused(second)
        assert count == 10 - 6
        assert "all connections of this user" in refusal["message"]
        assert (await (await live.connect("bob")).ask(type="ping"))["type"] == "pong"
        await first.close()
        await second.close()
        await wait_until(lambda: len(live.service.manager) == 1)
        again = await live.connect()  # this does not renew the budget
        assert (await again.ask(type="ping"))["code"] == "rate_limited"
        clock.now_s += 1
        assert (await pings_until_refused(again))[0] == 1


# {% endif %}
async def test_a_refusal_says_which_budget_is_spent_and_for_how_long(
    clock: Clock,
) -> None:
    async with run_service(make_settings(max_bytes_per_s=1_000, max_burst_s=BURST_S)) as live:
        client = await live.connect()
        assert (await answer_to(client, send_command(5_000)))["type"] == "ok"
        for wait_s in (3, 2, 1):
            refusal = await client.ask(type="ping")
            assert (refusal["code"], refusal["retry"]) == ("rate_limited", True)
            message = f"the budget of this connection is spent; retry in {wait_s}."
            assert refusal["message"].startswith(message)
            clock.now_s += 1
        clock.now_s += 0.2
        assert (await client.ask(type="ping"))["type"] == "pong"


async def test_the_policy_exempts_users() -> None:
    class Exempting(Policy):
        asked = 0

        async def can_exceed_rates(self, *_: object) -> bool:
            self.asked += 1
            return True

    limits = dict.fromkeys(
        ["max_messages_per_s", "max_messages_per_s_per_user", "max_bytes_per_s_per_target"], 1
    )
    policy = Exempting()
    async with run_service(make_settings(**limits, max_burst_s=1), policy=policy) as live:
        client = await live.connect()
        for _ in range(50):
            assert (await client.ask(type="send", to="nobody", data="x" * 100))["type"] == "ok"
        assert policy.asked == 1


@pytest.mark.hostile(83)
async def test_messages_to_one_target_have_a_budget(clock: Clock) -> None:
    """Otherwise one user could flood another, who would be closed as a slow consumer."""
    settings = make_settings(max_bytes_per_s_per_target=1_000, max_burst_s=BURST_S)
    async with run_service(settings) as live:
        client, victim = await live.connect(), await live.connect("bob")
        answers = [await client.ask(type="send", to=victim.user, data="x" * 500) for _ in range(6)]
        assert [answer["type"] for answer in answers] == ["ok"] * 4 + ["error"] * 2
        assert "target" in answers[-1]["message"]
        assert (await client.ask(type="send", to="nobody", data=1))["type"] == "ok"
        clock.now_s += 1
        assert (await client.ask(type="send", to=victim.user, data="x" * 500))["type"] == "ok"
        assert (await client.ask(type="broadcast", data="x" * 3_000))["type"] == "ok"
        assert (await client.ask(type="broadcast", data=1))["code"] == "rate_limited"


async def test_welcome_has_the_limits_of_a_user_and_of_a_target(live: Live) -> None:
    limits, settings = (await live.connect()).welcome["limits"], live.settings
    assert limits["user_messages_per_s"] == settings.max_messages_per_s_per_user
    assert limits["user_bytes_per_s"] == settings.max_bytes_per_s_per_user
    assert limits["target_bytes_per_s"] == settings.max_bytes_per_s_per_target
