"""Replaces a team's `tests/conftest.py` in the copy; imports none of the team's files."""

import os

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run tests on uvloop, as in production."""
    return "asyncio", {"use_uvloop": True}


def pytest_xdist_auto_num_workers() -> int:
    """Return twice the number of cores: the tests mostly wait."""
    return 2 * (os.cpu_count() or 1)
