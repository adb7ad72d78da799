"""The engine's jobs run around the team's resources, and again in another event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.realtime import Service
from app.realtime.errors import Misconfigured, Unavailable
from app.realtime.redis.backplane import RedisBackplane

from ..client import DEADLINE_S
from ..engine import make_app
from ..live import run_service, wait_until
from .test_backplane import settings_for
from .valkey import Valkey


async def test_resources_may_send_when_they_open_and_when_they_close(
    shared_valkey: Valkey,
) -> None:
    reached: list[int] = []

    @asynccontextmanager
    async def open_resources(service: Service) -> AsyncIterator[None]:
        await service.ban("mallory", 60)
        yield
        reached.append(await service.manager.broadcast("the service stops"))

    settings = settings_for(shared_valkey)
    async with run_service(settings, resources=open_resources) as live:
        await wait_until(lambda: live.service.backplane.healthy)
        assert await live.service.bans.get("mallory") is not None
    assert reached == [1]


async def test_resources_close_after_the_publisher_has_failed(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(backplane: RedisBackplane) -> None:
        raise Misconfigured("wrong password")

    monkeypatch.setattr(RedisBackplane, "_supervise", fail)
    happened: list[str] = []

    @asynccontextmanager
    async def open_resources(service: Service) -> AsyncIterator[None]:
        waiting = service.manager.broadcast("hi")
        yield
        for sent in (waiting, service.manager.broadcast("too late")):
            try:
                await sent
            except Unavailable:
                happened.append("unavailable")
        happened.append("closed")

    app = make_app(settings_for(shared_valkey), resources=open_resources)
    app.stop_server = lambda: None
    async with asyncio.timeout(DEADLINE_S), app.router.lifespan_context(app):
        await wait_until(lambda: app.failed)
    assert happened[-2:] == ["unavailable", "closed"]


async def test_what_resources_raise_is_raised_as_it_is(shared_valkey: Valkey) -> None:
    @asynccontextmanager
    async def open_resources(service: Service) -> AsyncIterator[None]:
        await service.manager.broadcast("before the failure")
        raise LookupError
        yield

    app = make_app(settings_for(shared_valkey), resources=open_resources)
    with pytest.raises(LookupError):
        async with app.router.lifespan_context(app):
            raise AssertionError


async def test_the_application_runs_again_in_another_event_loop(shared_valkey: Valkey) -> None:
    app = make_app(settings_for(shared_valkey, redis_max_connections=6))
    app.stop_server = lambda: None

    async def run_once() -> None:
        async with asyncio.timeout(DEADLINE_S), app.router.lifespan_context(app):
            service = app.service
            assert not any(each.is_confirmed for each in service.backplane.hosted.values())
            await wait_until(lambda: service.backplane.healthy or app.failed)
            # More than there are connections, so that some wait for their turn.
            await asyncio.gather(*(service.ban(f"user-{number}", 60) for number in range(20)))

    for _ in range(2):
        await asyncio.to_thread(asyncio.run, run_once())
        assert not app.failed
