"""Fixtures of the server's tests."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore logging after the test."""
    monkeypatch.setattr("atexit.register", lambda report: None)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    filters = logging.getLogger("uvicorn.error").filters
    logging.getLogger("uvicorn.error").filters = []
    config = structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    logging.getLogger("uvicorn.error").filters = filters
    structlog.configure(**config)
