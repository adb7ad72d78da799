"""What the service opens at start and closes at the end, and its background jobs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from . import realtime
from .realtime import Job
from .settings import Settings


@dataclass(slots=True)
class Resources:
    """What handlers, policies, routes and jobs find as ``service.resources``: a database, say."""


@dataclass(slots=True)
class State:
    """What each connection remembers, as ``connection.state``; `handlers.begin` makes it."""


Service = realtime.Service[Settings, Resources]
Connection = realtime.Connection[State]


@asynccontextmanager
async def open_resources(service: Service) -> AsyncIterator[Resources]:
    """Open what the service needs, and close it when the service has ended."""
    yield Resources()


jobs: list[Job] = []
"""Coroutine functions that take the service and run beside the connections."""
