"""Takes the place of a team's `tests/conftest.py` in the copy, and needs none of its files."""

import os

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run tests on the event loop that serves in production."""
    return "asyncio", {"use_uvloop": True}


def pytest_xdist_auto_num_workers() -> int:
    """Return twice the number of cores: tests wait more than they compute."""
    return 2 * (os.cpu_count() or 1)
