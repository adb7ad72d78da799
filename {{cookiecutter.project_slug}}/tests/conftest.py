"""What all tests share: an event loop, and no settings but those that a test makes."""

import os

import pytest

from app.realtime import RealtimeSettings

for name in RealtimeSettings.model_fields:
    os.environ.pop(name.upper(), None)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run tests on the event loop that serves in production."""
    return "asyncio", {"use_uvloop": True}


def pytest_xdist_auto_num_workers() -> int:
    """Return twice the number of cores: tests wait more than they compute."""
    return 2 * (os.cpu_count() or 1)
