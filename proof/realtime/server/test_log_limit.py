"""Log lines of an event are rate limited; suppressed lines are counted and reported."""

import asyncio
import json
import logging
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.realtime.server import log_limit
from app.realtime.server.log_limit import MAX_EVENTS, MAX_TEXT
from app.realtime.server.logging import configure_logging
from dev import fresh_secrets

from ..client import STOP_S, ConnectOptions
from ..limits.conftest import Clock
from ..live import make_settings
from ..raw_client import raw_client
from .test_logging import lines
from .test_process import next_line, run_process

pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the rate limit."""
    clock = Clock()
    monkeypatch.setattr(log_limit, "monotonic", clock)
    return clock


def entries(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines since the last call."""
    return [json.loads(line) for line in lines(capsys)]


def numbers(logged: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Count the lines of each event: printed, and reported as suppressed."""
    printed: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for entry in logged:
        if entry["event"] == "log lines suppressed":
            dropped[entry["of"]] += entry["suppressed"]
        else:
            printed[entry["event"]] += 1
    return printed, dropped


def test_lines_of_an_event_are_limited_and_drops_reported(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    configure_logging(make_settings(environment="production", max_log_lines_per_s=100))
    ours, theirs = structlog.stdlib.get_logger("app.test"), logging.getLogger("library")
    for _ in range(4):
        for number in range(2_500):
            ours.info("refused", number=number)
            theirs.warning("failed with %s", number)
        clock.now_s += 1
    logged = entries(capsys)
    printed, dropped = numbers(logged)
    assert printed["refused"] == 400
    assert printed.total() == 800
    assert dropped == {"refused": 3 * 2_400, "failed with %s": 3 * 2_400}
    # The last reports precede the next line.
    ours.info("all is quiet")
    report, other_report, quiet = entries(capsys)
    assert {report["of"], other_report["of"]} == {"refused", "failed with %s"}
    assert report["suppressed"] == other_report["suppressed"] == 2_400
    assert {report["source"], other_report["source"]} == {"app.test", "library"}
    assert quiet["event"] == "all is quiet"


def test_each_event_of_each_logger_has_its_own_limit(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    configure_logging(make_settings(environment="production", max_log_lines_per_s=2))
    for _ in range(10):
        structlog.stdlib.get_logger("app.test").info("flood")
    structlog.stdlib.get_logger("app.test").info("drop")
    structlog.stdlib.get_logger("app.other").info("flood")
    assert [entry["event"] for entry in entries(capsys)] == ["flood", "flood", "drop", "flood"]


def test_lines_below_the_level_do_not_count(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    settings = make_settings(environment="production", log_level="ERROR", max_log_lines_per_s=1)
    configure_logging(settings)
    logger = structlog.stdlib.get_logger("app.test")
    for _ in range(3):
        logger.info("state")
    for _ in range(3):
        logger.error("state")
    clock.now_s += 1
    logger.error("state")
    assert [entry.get("suppressed") for entry in entries(capsys)] == [None, 2, None]


def test_a_report_has_no_connection_fields(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    configure_logging(make_settings(environment="production", max_log_lines_per_s=1))
    with structlog.contextvars.bound_contextvars(connection="c1", user="alice"):
        for _ in range(2):
            structlog.stdlib.get_logger("app.test").info("something happened")
        clock.now_s += 1
        structlog.stdlib.get_logger("app.test").info("something happened")
    _, report, _ = entries(capsys)
    assert report["event"] == "log lines suppressed"
    assert report.keys().isdisjoint({"connection", "user"})


def test_too_many_events_share_a_limit(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    configure_logging(make_settings(environment="production", max_log_lines_per_s=3))
    for number in range(5 * MAX_EVENTS):
        logging.getLogger("library").info(f"no event is like number {number}")
        structlog.stdlib.get_logger("app.test").info("x" * MAX_TEXT + str(number))
    clock.now_s += 1
    structlog.stdlib.get_logger("app.test").info("all is quiet")
    printed, dropped = numbers(entries(capsys))
    assert printed.total() == MAX_EVENTS - 1 + 3 + 3 + 1
    assert dropped == {
        "x" * MAX_TEXT: 5 * MAX_EVENTS - 3,
        "other events": 4 * MAX_EVENTS + 1 - 3,
    }


def test_an_event_need_not_be_text(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    configure_logging(make_settings(environment="production", max_log_lines_per_s=1))
    for number in range(3):
        logging.getLogger("library").error(ValueError(number))
        logging.getLogger("library").error({"number": number})
    assert [entry["event"] for entry in entries(capsys)] == ["0", "{'number': 0}"]


async def test_lines_of_refused_handshakes_are_limited(tmp_path: Path) -> None:
    settings = {"PORT": "0", "ENVIRONMENT": "production", "MAX_LOG_LINES_PER_S": "1"}
    async with run_process(tmp_path, **fresh_secrets(), **settings) as process:
        port = (await next_line(process, r"http://127\.0\.0\.1:(\d+)"))[1]
        options = ConnectOptions(f"ws://127.0.0.1:{port}/ws", {"Origin": "https://evil.test"})
        for _ in range(100):
            async with raw_client(options) as stranger:
                assert (await stranger.head()).startswith("HTTP/1.1 403 ")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            _, errors = await process.communicate()
    printed, dropped = numbers([json.loads(line) for line in errors.splitlines()])
    assert printed["handshake refused"] + dropped["handshake refused"] == 100
    assert dropped["handshake refused"] > 0
