"""Fixtures of your tests: your service on a real socket, and a connection without one.

======================  =====================================================================
``live``                your service: ``await live.connect("alice")``, ``await live.get("/path")``
``service``             the same, as handlers get it
``connection``          a connection without a socket, to call a handler with
======================  =====================================================================
"""

import os
import re
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.settings import Settings
from dev import fresh_secrets

Settings.model_config["env_file"] = None
for name in Settings.model_fields:
    for variable in (name.upper(), f"{name.upper()}_FILE"):
        os.environ.pop(variable, None)
os.environ.update(fresh_secrets())  # for `app.main`, which reads them when it is imported

from app.handlers import router  # noqa: E402
from app.main import create_app  # noqa: E402
from app.resources import Connection, Service  # noqa: E402

from .realtime.live import Live, run_app, settings_with, wait_until  # noqa: E402
from .realtime.recording_wire import open_connection  # noqa: E402

FAILURES = re.compile(
    "(authenticator|background job|connection|handler|observer|readiness check|validator) failed"
)
"""Log events of exceptions in your code, except in routes: they log a request with status 500."""


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run tests on the event loop that serves in production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
async def running_service() -> AsyncIterator[Live]:
    """Run your service for the whole session."""
    settings = Settings(**settings_with())
    async with run_app(create_app(settings)) as live:
        yield live


def is_failure(line: MutableMapping[str, Any]) -> bool:
    """Return whether a line of the log reports an unexpected exception."""
    event = line["event"]
    return bool(FAILURES.match(event)) or (event == "request" and line.get("status") == 500)


@pytest.fixture
async def live(running_service: Live) -> AsyncIterator[Live]:
    """Return your service. The test fails if your code raised an unexpected exception."""
    assert not running_service.server.app.failed, "an essential job has failed"
    with capture_logs() as lines:
        yield running_service
        await running_service.close_clients()
        await wait_until(lambda: len(running_service.service.manager) == 0)
    assert not [line for line in lines if is_failure(line)]


@pytest.fixture
def service(live: Live) -> Service:
    """Return your service as handlers, policies and jobs get it."""
    return live.service


@pytest.fixture
async def connection(service: Service) -> AsyncIterator[Connection]:
    """Return a connection of alice to call a handler with. It leaves the service after the test."""
    connection: Connection = open_connection(user="alice")
    if router.begin is not None:
        connection.state = await router.begin(service, connection)
    yield connection
    service.forget(connection)


def pytest_xdist_auto_num_workers() -> int:
    """Return twice the number of cores: tests mostly wait."""
    return 2 * (os.cpu_count() or 1)
