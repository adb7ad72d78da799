"""One line per event, in the format of the environment, without secrets."""

import json
import logging

import pytest
import structlog

from app.realtime.server.logging import LINES, configure_logging

from ..live import make_settings

pytestmark = pytest.mark.usefixtures("restored_logging")


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


def test_uvicorns_lines_have_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings(environment="production"))
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    (line,) = lines(capsys)
    assert json.loads(line)["event"] == "Started server process [7]"


def test_lines_of_uvicorn_about_handshakes_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings())
    logger = logging.getLogger("uvicorn.error")
    logger.info('%s - "WebSocket %s" 403', "peer", "/ws?key=secret")
    logger.info("connection open")
    logger.error("Cancel %s running task(s), timeout graceful shutdown exceeded", 0)
    assert lines(capsys) == []


def test_development_logs_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_lines_from_a_level_on_are_logged_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings(log_level="WARNING"))
    before = LINES["warning"]
    structlog.stdlib.get_logger("app.test").info("quiet")
    structlog.stdlib.get_logger("app.test").warning("loud")
    assert len(lines(capsys)) == LINES["warning"] - before == 1
