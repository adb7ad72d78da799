"""One line for each event, in the format of the environment, without anything secret."""

import asyncio
import json
import logging
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.realtime.server import log_limit
from app.realtime.server.log_limit import MAX_EVENTS, MAX_TEXT
from app.realtime.server.logging import configure_logging
from dev import fresh_secrets

from ..client import DEADLINE_S, START_S
from ..limits.test_conduct import Clock
from ..live import make_settings
from ..raw_client import raw_connection
from .test_process import run_process


@pytest.fixture(autouse=True)
def restore_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave logging as it was."""
    monkeypatch.setattr("atexit.register", lambda report: None)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    filters = logging.getLogger("uvicorn.error").filters
    logging.getLogger("uvicorn.error").filters = []
    yield
    root.handlers, root.level = handlers, level
    logging.getLogger("uvicorn.error").filters = filters
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_production_logs_json_with_context(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings(environment="production"))
    with structlog.contextvars.bound_contextvars(connection="c1", user="alice"):
        structlog.stdlib.get_logger("app.test").info("something happened", count=3)
    (line,) = lines(capsys)
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "something happened",
        "level": "info",
        "logger": "app.test",
        "connection": "c1",
        "user": "alice",
        "count": 3,
    }


def test_uvicorns_lines_take_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings(environment="production"))
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    (line,) = lines(capsys)
    assert json.loads(line)["event"] == "Started server process [7]"


def test_uvicorns_lines_for_handshakes_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings())
    logger = logging.getLogger("uvicorn.error")
    logger.info('%s - "WebSocket %s" 403', "peer", "/ws?key=secret")
    logger.info("connection open")
    assert lines(capsys) == []


def test_development_logs_for_human_eyes(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings(environment="development"))
    structlog.stdlib.get_logger("app.test").info("something happened", count=3)
    (line,) = lines(capsys)
    assert "something happened" in line
    assert not line.startswith("{")


@pytest.mark.parametrize("environment", ["production", "development"])
def test_tracebacks_show_no_local_variables(
    capsys: pytest.CaptureFixture[str], environment: str
) -> None:
    configure_logging(make_settings(environment=environment))
    payload = "private " + "payload"

    def handle(message: str) -> None:
        raise RuntimeError

    try:
        handle(payload)
    except RuntimeError:
        structlog.stdlib.get_logger("app.test").exception("failed")
    output = "\n".join(lines(capsys))
    assert "RuntimeError" in output
    assert payload not in output


def test_the_level_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings(log_level="WARNING"))
    structlog.stdlib.get_logger("app.test").info("quiet")
    structlog.stdlib.get_logger("app.test").warning("loud")
    assert len(lines(capsys)) == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock by which lines are counted."""
    clock = Clock()
    monkeypatch.setattr(log_limit, "monotonic", clock)
    return clock


def entries(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines since the last call."""
    return [json.loads(line) for line in lines(capsys)]


def numbers(logged: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Return how many lines of each event were printed, and how many were reported as dropped."""
    printed: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for entry in logged:
        if entry["event"] == "log lines suppressed":
            dropped[entry["of"]] += entry["suppressed"]
        else:
            printed[entry["event"]] += 1
    return printed, dropped


def test_many_lines_of_an_event_are_few_and_none_is_lost_in_silence(
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
    # Whatever comes next tells the rest.
    ours.info("all is quiet")
    report, other_report, quiet = entries(capsys)
    assert {report["of"], other_report["of"]} == {"refused", "failed with %s"}
    assert report["suppressed"] == other_report["suppressed"] == 2_400
    assert {report["source"], other_report["source"]} == {"app.test", "library"}
    assert quiet["event"] == "all is quiet"


def test_a_flood_of_one_event_leaves_the_others_alone(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    configure_logging(make_settings(environment="production", max_log_lines_per_s=2))
    for _ in range(10):
        structlog.stdlib.get_logger("app.test").info("flood")
    structlog.stdlib.get_logger("app.test").info("drop")
    structlog.stdlib.get_logger("app.other").info("flood")
    assert [entry["event"] for entry in entries(capsys)] == ["flood", "flood", "drop", "flood"]


def test_lines_that_are_not_logged_anyway_do_not_count(
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


def test_a_report_is_about_no_connection(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    configure_logging(make_settings(environment="production", max_log_lines_per_s=1))
    with structlog.contextvars.bound_contextvars(connection="c1", user="alice"):
        for _ in range(2):
            structlog.stdlib.get_logger("app.test").info("something happened")
        clock.now_s += 1
        structlog.stdlib.get_logger("app.test").info("something happened")
    _, report, _ = entries(capsys)
    assert report["event"] == "log lines suppressed"
    assert report.keys().isdisjoint({"connection", "user"})


def test_events_without_end_share_a_limit(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
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


async def test_refused_handshakes_make_few_lines(tmp_path: Path) -> None:
    environment = {"PORT": "0", "ENVIRONMENT": "production", "MAX_LOG_LINES_PER_S": "1"}
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: test\r\nOrigin: https://evil.test\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with run_process(tmp_path, **fresh_secrets(), **environment) as process:
        assert process.stderr is not None
        printed = ""
        async with asyncio.timeout(START_S):
            while "http://" not in printed:
                printed = (await process.stderr.readline()).decode()
        port = int(printed.rpartition("http://127.0.0.1:")[2].split()[0].strip('"'))
        for _ in range(100):
            async with raw_connection("127.0.0.1", port) as stranger:
                stranger.send(handshake)
                assert (await stranger.head()).startswith("HTTP/1.1 403 ")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await process.communicate()
    logged = [json.loads(line) for line in errors.splitlines()]
    lines, dropped = numbers(logged)
    assert lines["handshake refused"] + dropped["handshake refused"] == 100
    assert dropped["handshake refused"] > 0
