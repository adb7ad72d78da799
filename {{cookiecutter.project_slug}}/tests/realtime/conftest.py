"""What the engine's tests share: a service with default settings, and a check for leftovers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.realtime import RealtimeSettings

from .live import Live, leftovers, run_service, wait_until


@pytest.fixture(scope="session")
async def shared_service() -> AsyncIterator[Live]:
    """Run a service with default settings for the whole session."""
    async with run_service() as live:
        yield live


@pytest.fixture
async def live(shared_service: Live) -> AsyncIterator[Live]:
    """Return the shared service, without connections before and after the test."""
    assert len(shared_service.service.manager) == 0
    yield shared_service
    await shared_service.close_clients()
    await wait_until(lambda: len(shared_service.service.manager) == 0)


@pytest.fixture(autouse=True)
def no_settings_but_the_test_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment in which your own tests run."""
    for name in RealtimeSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
async def nothing_is_left(anyio_backend: object) -> AsyncIterator[None]:
    """Wait until all that came with the test is gone, sockets and tasks of the service among it.

    All tests run in one task. A `TaskGroup` that fails in it would have every later timeout there
    misbehave before Python 3.11.3, so such a test needs a task of its own.
    """
    before = leftovers()
    yield
    task = asyncio.current_task()
    assert task is not None
    spoiled = task.cancelling()
    for _ in range(spoiled):  # or the tests behind this one would fail as well
        task.uncancel()
    await wait_until(lambda: leftovers() <= before)
    assert not spoiled
