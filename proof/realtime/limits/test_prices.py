"""What each kind of message costs its sender, and when a budget is forgotten."""

import asyncio
import json
import re
from math import ceil
from time import monotonic

import pytest
from pydantic_core import from_json, to_json

from app.realtime import RealtimeSettings
from app.realtime.errors import RateLimited
from app.realtime.limits import budget
from app.realtime.limits.budget import (
    GROWTH,
    KEY_BYTES,
    MAX_TARGETS,
    Budgets,
    ClientLimits,
    UserBudget,
)
from app.realtime.protocol import FLOOD

from ..live import Live, make_settings, run_service, wait_until
from ..raw_client import CONT, PING, PONG, TEXT, masked, raw_client
from .conftest import Clock
from .test_budget import BURST_S, answer_to, pings_until_refused, send_command


def surplus(count: int) -> str:
    """Return a command with so many unknown fields."""
    return json.dumps({"type": "ping", "id": "ask"} | dict.fromkeys(map(str, range(count)), 1))


async def test_the_budget_of_a_user_is_forgotten_when_it_is_paid() -> None:
    budgets = Budgets(make_settings(max_messages_per_s_per_user=1_000))
    paid, unpaid = budgets.enter("paid"), budgets.enter("unpaid")
    assert budgets.enter("paid") is paid
    for _ in range(10):
        unpaid.take(monotonic())
    for user in ("paid", "paid", "unpaid"):
        budgets.leave(user)
    assert budgets.enter("unpaid") is unpaid
    budgets.leave("unpaid")
    await wait_until(lambda: not budgets._of_users)


async def test_the_budget_of_a_user_is_kept_until_its_targets_are_paid() -> None:
    budgets = Budgets(make_settings(max_bytes_per_s_per_target=100))
    alice, now = budgets.enter("alice"), monotonic()
    alice.target("bob", now).charge(now, 10_000)
    budgets.leave("alice")
    assert alice.forgetting is not None
    assert alice.forgetting.when() - asyncio.get_running_loop().time() > 90
    assert budgets.enter("alice") is alice
    assert alice.forgetting.cancelled()


async def test_a_key_has_a_price(clock: Clock) -> None:
    settings = make_settings(max_bytes_per_s=KEY_BYTES, max_burst_s=BURST_S)
    async with run_service(settings) as live:
        client = await live.connect()
        command = {"type": "send", "to": "nobody", "data": 1}
        answers = [await client.ask(**command, key=f"key-{n}") for n in range(BURST_S + 1)]
    assert [each["type"] for each in answers] == ["ok"] * BURST_S + ["error"]
    assert answers[-1]["code"] == "rate_limited"


def test_a_burst_to_one_target_fits_into_half_of_what_a_client_may_leave_unread() -> None:
    fields = RealtimeSettings.model_fields
    burst = fields["max_bytes_per_s_per_target"].default * fields["max_burst_s"].default
    assert burst + fields["max_message_bytes"].default <= fields["max_unsent_bytes"].default / 2


async def test_targets_that_are_paid_for_are_forgotten() -> None:
    user = UserBudget(make_settings(max_bytes_per_s_per_target=1, max_burst_s=BURST_S))
    user.target("large", 0).take(0, 10**9)
    for number in range(3 * MAX_TARGETS):
        user.target(f"small {number}", number).take(number, 1)
        assert len(user._targets) <= MAX_TARGETS
    assert not user.target("large", number).take(number, 1)


async def test_copies_of_a_message_are_paid_by_its_sender(clock: Clock) -> None:
    async with run_service(make_settings(max_bytes_per_s=10_000, max_burst_s=1)) as live:
        clients = [await live.connect() for _ in range(20)]
        answers = [
            (await clients[0].ask(type="broadcast", data="x" * 1_000))["type"] for _ in range(12)
        ]
        command = {"type": "broadcast", "data": "x" * 1_000, "id": "ask"}
        price = len(json.dumps(command)) + 1_002 * (len(clients) - 4) / 4
        assert answers.count("ok") == ceil(10_000 / price) < ceil(10_000 / len(json.dumps(command)))


@pytest.mark.parametrize(
    ("recipients", "copies"), [(3, 0), (4, 0), (7, 0), (8, 1), (11, 1), (12, 2)]
)
def test_each_further_4_recipients_cost_the_bytes_of_a_message_once(
    clock: Clock, recipients: int, copies: int
) -> None:
    settings, data = make_settings(max_bytes_per_s=100), "x" * 98
    client = ClientLimits(settings, UserBudget(settings))
    client.pay(json.dumps(data))
    before = client._own._arrival
    client.pay_for_message("bob", data, recipients)
    assert client._own._arrival - before == pytest.approx(copies)


def test_data_that_is_not_the_client_s_costs_its_size(clock: Clock) -> None:
    settings = make_settings(max_bytes_per_s=100)
    client = ClientLimits(settings, UserBudget(settings))
    client.pay("x" * 50)
    before = client._own._arrival
    client.pay_for_message("bob", "x" * 998, 3, 1_000)
    assert client._own._arrival - before == pytest.approx(9.5)


@pytest.mark.parametrize("value", ["1e15", "-1e15", "1E+15"])
async def test_numbers_do_not_grow_beyond_a_message(live: Live, value: str) -> None:
    """`1e15` is encoded again as `1000000000000000.0`."""
    client, victim = await live.connect(), await live.connect("bob")
    largest = live.settings.max_message_bytes
    frame = send_command(largest - 200, value).replace("nobody", victim.user)
    assert (await answer_to(client, frame))["code"] == "too_large"
    assert await victim.is_quiet()
    honest = send_command(largest - 200, "1000000000000000.0").replace("nobody", victim.user)
    assert (await answer_to(client, honest))["type"] == "ok"
    assert len(json.dumps(await victim.receive("message"))) < 1.2 * largest


@pytest.mark.parametrize("sign", ["", "-"])
def test_no_number_grows_by_more_than_the_known_factor(sign: str) -> None:
    for exponent in range(-300, 300):
        text = f"{sign}1e{exponent}"
        assert len(to_json(from_json(text))) <= GROWTH * len(text)


async def test_a_small_message_is_written_out_once(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frame shows that it cannot become too large, unless the limit is small, too."""
    client = await live.connect()
    async with run_service(make_settings(max_message_bytes=160)) as narrow:
        answer = await answer_to(await narrow.connect(), send_command(80, "1e15"))
        assert answer["code"] == "too_large"
    monkeypatch.delattr(budget, "to_json")
    assert (await answer_to(client, send_command(80, "1e15")))["type"] == "ok"


@pytest.mark.hostile(82)
async def test_numbers_that_grow_are_paid_by_their_size(clock: Clock) -> None:
    settings = make_settings(max_bytes_per_s=10_000, max_burst_s=1)
    async with run_service(settings) as live:
        client = await live.connect()
        assert (await answer_to(client, send_command(3_000, "1e15")))["type"] == "ok"
        assert (await answer_to(client, send_command(100)))["type"] == "error"


@pytest.mark.hostile(82)
async def test_what_takes_long_to_parse_costs_more(clock: Clock) -> None:
    """Brackets, and frames with many errors."""
    settings = make_settings(max_bytes_per_s=100_000, max_burst_s=1)
    async with run_service(settings) as live:
        flat, nested, short, wrong = [await live.connect() for _ in range(4)]
        for client, frame, allowed in (
            (flat, send_command(20_000), 5),
            (nested, send_command(20_000, "[]"), 1),
            (short, send_command(3_000, "[]"), 6),
            (wrong, surplus(2_000), 1),
        ):
            answers = [await answer_to(client, frame) for _ in range(allowed + 1)]
            refused = [answer.get("code") == "rate_limited" for answer in answers]
            assert refused == [False] * allowed + [True]


async def test_many_errors_in_a_command_are_not_explained(live: Live) -> None:
    client = await live.connect()
    answer = await answer_to(client, surplus(100))
    assert answer["code"] == "bad_request"
    assert answer["message"] == "many fields are unknown or invalid"


@pytest.mark.hostile(84)
@pytest.mark.parametrize(
    "frames", [masked(b"", PING), masked(b"", PONG), masked(b"", CONT, fin=False)]
)
async def test_control_frames_and_fragments_are_messages(clock: Clock, frames: bytes) -> None:
    """A burst of pings is answered; too many of any kind close the connection."""
    settings = make_settings(max_messages_per_s=10, max_burst_s=BURST_S)
    async with run_service(settings) as live:
        async with raw_client(await live.options()) as client:
            await client.upgraded()
            await client.text()
            if frames[0] == CONT:
                client.send(masked(b"x", TEXT, fin=False))
            client.send(frames * 5_000)
            assert await client.close_code() == FLOOD.code
            await wait_until(lambda: len(live.service.manager) == 0)
        async with raw_client(await live.options("bob")) as client:
            await client.upgraded()
            await client.text()
            client.send(masked(b"", PING) * (10 * BURST_S))
            for _ in range(10 * BURST_S):
                assert await client.frame() == (PONG, b"")
            client.send(masked(b'{"type": "ping"}'))
            assert (await client.text())["code"] == "rate_limited"


async def test_a_client_that_pauses_as_told_is_not_refused_again(
    clock: Clock,
) -> None:
    async with run_service(make_settings(max_bytes_per_s=1_000, max_burst_s=BURST_S)) as live:
        client = await live.connect()
        for size in range(2_000, 3_000, 37):
            assert (await answer_to(client, send_command(size)))["type"] == "ok"
            _, refusal = await pings_until_refused(client)
            told = re.fullmatch(r".*; retry in ([0-9.]+) s", refusal["message"])
            assert told is not None
            clock.now_s += float(told[1])
            assert (await client.ask(type="ping"))["type"] == "pong"
            clock.now_s += BURST_S


async def test_the_budget_of_a_user_without_connections_is_forgotten() -> None:
    async with run_service() as live:
        client = await live.connect()
        assert live.service.budgets._of_users
        await client.close()
        await wait_until(lambda: not live.service.budgets._of_users)


def test_control_frames_are_paid_by_the_user_as_well(clock: Clock) -> None:
    settings = make_settings(max_messages_per_s_per_user=5, max_burst_s=BURST_S)
    user = UserBudget(settings)
    ClientLimits(settings, user).pay_for_frames(5 * BURST_S)
    with pytest.raises(RateLimited, match="all connections of this user"):
        ClientLimits(settings, user).pay("{}")
