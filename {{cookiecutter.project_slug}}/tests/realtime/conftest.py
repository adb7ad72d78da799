"""Fixtures of the engine's tests: a service with default settings, and a check for leftovers."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import structlog

from app.realtime import RealtimeSettings

from .live import Live, leftovers, run_service, wait_until


def pytest_configure() -> None:
    """Let SIGTERM end the tests as Ctrl+C does, so that the processes they started end too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
async def shared_service() -> AsyncIterator[Live]:
    """Run a service with default settings for the whole session."""
    async with run_service() as live:
        yield live


@pytest.fixture
async def live(shared_service: Live) -> AsyncIterator[Live]:
    """Return the shared service. It has no connections before and after the test."""
    assert len(shared_service.service.manager) == 0
    yield shared_service
    await shared_service.close_clients()
    await wait_until(lambda: len(shared_service.service.manager) == 0)


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Print exceptions the short way: those with colours and variables take a third of a second."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture(autouse=True)
def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove settings from the environment."""
    for name in RealtimeSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)


@pytest.fixture(autouse=True)
async def nothing_is_left(anyio_backend: object) -> AsyncIterator[None]:
    """Wait until the sockets and tasks that the test has opened are gone.

    All tests run in one task. Before Python 3.11.3, a `TaskGroup` that fails leaves its task
    cancelled (python/cpython#102815), so a test with such a group needs a task of its own.
    """
    before = leftovers()
    yield
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    for _ in range(cancellations):  # otherwise later tests would fail, too
        task.uncancel()
    await wait_until(lambda: leftovers() <= before)
    assert not cancellations
