"""Your resources, opened when the service starts and closed when it ends; background jobs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from . import realtime
from .realtime import Job
from .settings import Settings


@dataclass(slots=True)
class Resources:
    """The value of ``service.resources``, for handlers, policies, routes and jobs."""


@dataclass(slots=True)
class State:
    """The value of ``connection.state``, which `handlers.begin` makes."""


Service = realtime.Service[Settings, Resources]
Connection = realtime.Connection[State]


@asynccontextmanager
async def open_resources(service: Service) -> AsyncIterator[Resources]:
    """Open the resources, and close them when the service has ended."""
    yield Resources()


async def is_ready(service: Service) -> bool:
    """Return whether the resources are ready; ``/readyz`` calls this."""
    return True


jobs: list[Job] = []
"""Background jobs, each a ``Job(run)`` of an ``async def run(service: Service) -> None``.

A job that fails is restarted after a pause. With ``Job(run, essential=True)``, its failure
stops the service.
"""
