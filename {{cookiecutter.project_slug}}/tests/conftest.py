"""What all tests share: an event loop, no settings but a test's own, and your service."""

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.realtime import Application
from app.resources import Connection, Service, State
from app.settings import Settings
from dev import fresh_secrets

from .realtime import recording_wire
from .realtime.live import Live, make_settings, run_service

for name in Settings.model_fields:
    os.environ.pop(name.upper(), None)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run tests on the event loop that serves in production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def settings() -> Settings:
    """Return your settings with fresh secrets, from nothing but this."""
    values: dict[str, Any] = dict(make_settings())
    return Settings(_env_file=None, **values)


@pytest.fixture
def make_service(monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings], Application]:
    """Return `create_app`; its module makes an app of the environment when it is imported."""
    for name, value in fresh_secrets().items():
        monkeypatch.setenv(name, value)
    from app.main import create_app

    return create_app


@pytest.fixture
async def service(
    settings: Settings, make_service: Callable[[Settings], Application]
) -> AsyncIterator[Service]:
    """Return your service without a server: for handlers and policies."""
    app = make_service(settings)
    async with app.router.lifespan_context(app):
        started: Any = app.service
        yield started


@pytest.fixture
async def live(
    settings: Settings, make_service: Callable[[Settings], Application]
) -> AsyncIterator[Live]:
    """Run your service on a real socket; fail if one of your functions raised unexpectedly."""
    with capture_logs() as lines:
        async with run_service(settings, make=make_service) as live:
            yield live
    failures = [line for line in lines if line["event"] in {"handler failed", "observer failed"}]
    assert not failures


def open_connection(user: str, state: State) -> Connection:
    """Return a connection without a socket; what it is sent goes nowhere."""
    connection: Connection = recording_wire.open_connection(user=user)
    connection.state = state
    return connection


def pytest_xdist_auto_num_workers() -> int:
    """Return twice the number of cores: tests wait more than they compute."""
    return 2 * (os.cpu_count() or 1)
