"""What all tests share: one event loop, one service with default settings, clients for it."""

import os
from collections.abc import AsyncIterator

import pytest

from app.main import ServiceSettings

from .live import Live, run_service, wait_until

for name in ServiceSettings.model_fields:
    os.environ.pop(name.upper(), None)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run tests on the event loop that serves in production."""
    return "asyncio", {"use_uvloop": True}


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
