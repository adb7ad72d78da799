"""Without authentication every connection is a new guest."""

import json
from pathlib import Path

import pytest
import structlog

from app.realtime import Authenticator

from ..live import Live, make_settings
from ..server.test_process import next_line, run_process


async def test_each_connection_is_a_new_guest(live: Live) -> None:
    first, second = await live.connect(), await live.connect()
    assert first.user != second.user
    assert first.user.startswith("guest-")
    await first.send(type="send", to=second.user, data=1)
    assert (await second.receive("message"))["from"] == first.user


async def test_a_process_without_authentication_logs_a_warning(tmp_path: Path) -> None:
    async with run_process(tmp_path, PORT="0", ENVIRONMENT="production") as process:
        line = (await next_line(process, "no authentication")).string
    assert json.loads(line)["level"] == "warning"


@pytest.mark.parametrize(("environment", "warnings"), [("production", 1), ("development", 0)])
async def test_the_warning_is_for_production_only(environment: str, warnings: int) -> None:
    with structlog.testing.capture_logs() as lines:
        await Authenticator(make_settings(environment=environment)).run()
    assert len(lines) == warnings
