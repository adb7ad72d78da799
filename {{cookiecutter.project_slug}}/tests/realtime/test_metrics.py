"""Metrics for Prometheus, and access to them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from websockets.exceptions import InvalidStatus

from app.realtime import Command, CommandRouter, Connection, Service
from app.realtime.errors import CommandError, Forbidden, Refused
from app.realtime.protocol import INTERNAL_ERROR

from .client import DEADLINE_S
from .live import BACKEND, Live, make_settings, run_service, wait_until

KEY = "a-key-for-the-monitoring-" * 2


@pytest.fixture
async def monitored() -> AsyncIterator[Live]:
    """Run a service with `/metrics` enabled."""
    async with run_service(make_settings(metrics_key=KEY, max_connections=1)) as live:
        yield live


async def read(live: Live) -> dict[str, float]:
    """Return all samples by name and label value."""
    answer = await live.get("/metrics", KEY)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPE_PLAIN_0_0_4
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            samples[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return samples


async def test_connections_are_counted(monitored: Live) -> None:
    before = await read(monitored)
    assert before["ws_connections"] == 0
    client = await monitored.connect()
    with pytest.raises(InvalidStatus) as refused:
        await monitored.connect("bob")
    assert refused.value.response.status_code == 503
    during = await read(monitored)
    assert during["ws_connections"] == 1
    assert during["ws_connections_opened_total"] == 1
    assert during["ws_handshakes_refused_total at capacity 503"] == 1
    await client.close()
    await wait_until(lambda: len(monitored.service.manager) == 0)
    after = await read(monitored)
    assert after["ws_connections"] == 0
    assert after["ws_connections_closed_total client 1000"] == 1


async def test_commands_and_their_errors_are_counted(monitored: Live) -> None:
    client = await monitored.connect()
    await client.ask(type="ping")
    await client.ask(type="nonsense")
    await client.send_text("[]")
    await client.receive("error")
    samples = await read(monitored)
    assert samples["ws_commands_total ping"] == 1
    assert samples["ws_commands_total broadcast"] == 0
    assert samples["ws_commands_total refused"] == 2
    assert samples["ws_command_errors_total unknown_type"] == 1
    assert samples["ws_command_errors_total bad_request"] == 1


async def test_commands_are_timed_and_their_bytes_counted_by_type(monitored: Live) -> None:
    client = await monitored.connect()
    before = await read(monitored)
    frame = '{"type": "broadcast", "data": "äöü", "echo": true, "id": "1"}'
    await client.send_text(frame)
    answer, message = await client.receive("ok"), await client.receive("message")
    await client.ask(type="ping")
    await client.send_text("nonsense")
    await client.receive("error")
    after = await read(monitored)
    growth = {name: value - before[name] for name, value in after.items() if "broadcast" in name}
    assert growth["ws_received_bytes_total broadcast"] == len(frame.encode())
    assert growth["ws_command_duration_seconds_count broadcast"] == 1
    assert growth["ws_command_duration_seconds_bucket +Inf broadcast"] == 1
    assert 0 < growth["ws_command_duration_seconds_sum broadcast"] < DEADLINE_S
    assert after["ws_received_bytes_total refused"] == len("nonsense")
    assert after["ws_received_bytes_total ping"] > 0
    assert after["ws_frames_sent_total group"] - before["ws_frames_sent_total group"] == 1
    assert after["ws_frames_sent_total one"] - before["ws_frames_sent_total one"] == 3
    sent_bytes = after["ws_sent_bytes_total group"] - before["ws_sent_bytes_total group"]
    assert sent_bytes == frame_size(message)
    assert after["ws_sent_bytes_total one"] > frame_size(answer)


def frame_size(frame: dict[str, Any]) -> int:
    """Return the size of a short frame: two bytes precede its text (RFC 6455 §5.2)."""
    return 2 + len(json.dumps(frame, separators=(",", ":"), ensure_ascii=False).encode())


class Later(Command):
    """Answer when the test says so."""

    type: Literal["later"]


async def test_commands_answered_later_are_timed_until_then() -> None:
    router, waiting = CommandRouter(), list[asyncio.Future[None]]()

    @router.command(Later)
    async def later(
        service: Service, connection: Connection, command: Later
    ) -> asyncio.Future[None]:
        waiting.append(asyncio.get_running_loop().create_future())
        return waiting[-1]

    settings = make_settings(metrics_key=KEY)
    timed, failed = "ws_command_duration_seconds_count later", "ws_command_failures_total later"
    async with run_service(settings, commands=router) as live:
        client = await live.connect()
        await client.send(type="later", id="1")
        await wait_until(lambda: bool(waiting))
        assert (await read(live))[timed] == 0
        waiting[0].set_result(None)
        await client.receive("ok")
        assert (await read(live))[timed] == 1
        await client.send(type="later", id="2")
        await wait_until(lambda: len(waiting) == 2)
        waiting[1].set_exception(Forbidden("refused"))
        await client.receive("error")
        samples = await read(live)
        assert (samples[timed], samples[failed]) == (2, 0)
        live.server.app._endpoint.dispatcher._timeout_s = 0.05
        assert (await client.ask(type="later"))["code"] == "unavailable"
        samples = await read(live)
        assert (samples[timed], samples[failed]) == (3, 1)


async def test_the_process_is_measured(monitored: Live) -> None:
    samples = await read(monitored)
    assert samples["process_resident_memory_bytes"] > 0


async def test_reading_metrics_needs_the_metrics_key(live: Live, monitored: Live) -> None:
    assert (await live.get("/metrics")).status_code == 404
    assert (await monitored.get("/metrics")).status_code == 401
    assert (await monitored.get("/metrics", BACKEND)).status_code == 401


KNOWN = [
    *(f"ws_handshakes_refused_total {why} {code}" for why, (code, _) in Refused.REASONS.items()),
    *(f"ws_connections_rejected_total {code}" for code in (1013, 4500)),
    *(f"ws_command_errors_total {code}" for code in ("bad_request", "unavailable", "internal")),
    *(f"ws_commands_total {kind}" for kind in ("ping", "send", "broadcast", "refused")),
    *(f"ws_command_{name} broadcast" for name in ("duration_seconds_count", "failures_total")),
    *(f"ws_requests_refused_total {status}" for status in (400, 408, 426, 431)),
    *(f"ws_connections_closed_total client {code}" for code in (1000, 1005, 1006, "other")),
    *(f"ws_connections_closed_total server {code}" for code in (1003, 1011, 1012, 4008, 4013)),
]
"""Some of the counters that must exist before their first increment."""


async def test_counters_exist_from_the_start(monitored: Live) -> None:
    samples = await read(monitored)
    assert {name: samples.get(name) for name in KNOWN} == dict.fromkeys(KNOWN, 0)


async def test_counters_of_the_teams_errors_exist_from_the_start() -> None:
    class OutOfStock(CommandError):
        code = "out_of_stock"

    async with run_service() as live:
        assert live.counts()["ws_command_errors_total out_of_stock"] == 0
        assert "ws_command_errors_total out_of_stock" in live.counts()


@pytest.mark.parametrize(
    ("code", "counted"),
    [(1000, "1000"), (1001, "1001"), (1011, "other"), (1013, "other"), (4013, "other")],
)
async def test_close_codes_of_clients_are_counted_in_a_fixed_set(
    live: Live, code: int, counted: str
) -> None:
    before = live.counts()
    client = await live.connect()
    with capture_logs() as lines:
        await client.connection.close(code)
        await wait_until(lambda: len(live.service.manager) == 0)
        await wait_until(lambda: bool(lines))
    assert {key for key in live.counts() - before if "closed" in key} == {
        f"ws_connections_closed_total client {counted}"
    }
    assert [(line["by"], line["code"]) for line in lines] == [("client", code)]


async def test_closes_by_the_server_are_counted(live: Live) -> None:
    before = live.counts()
    client = await live.connect()
    (connection,) = live.service.manager
    connection.close(INTERNAL_ERROR)
    assert await client.closed() == INTERNAL_ERROR
    await wait_until(lambda: len(live.service.manager) == 0)
    assert {key for key in live.counts() - before if "closed" in key} == {
        "ws_connections_closed_total server 1011"
    }
