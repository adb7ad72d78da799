"""Without authentication everybody is a guest of their own."""

import json
from pathlib import Path

import pytest
import structlog

from app.realtime.auth.guest import GuestAuthenticator

from ..live import Live, make_settings
from ..test_privacy import eavesdrop


async def test_each_connection_is_another_guest(live: Live) -> None:
    first, second = await live.connect(), await live.connect()
    assert first.user != second.user
    assert first.user.startswith("guest-")
    await first.send(type="send", to=second.user, data=1)
    assert (await second.receive("message"))["from"] == first.user


async def test_the_log_has_a_warning(tmp_path: Path) -> None:
    async with eavesdrop(tmp_path) as service:
        pass
    lines = map(json.loads, service.printed.splitlines())
    warnings = [line["event"] for line in lines if line["level"] == "warning"]
    assert any("anybody can connect" in warning for warning in warnings)


@pytest.mark.parametrize(("environment", "warnings"), [("production", 1), ("development", 0)])
async def test_production_is_warned(environment: str, warnings: int) -> None:
    with structlog.testing.capture_logs() as lines:
        await GuestAuthenticator(make_settings(environment=environment)).run()
    assert len(lines) == warnings
