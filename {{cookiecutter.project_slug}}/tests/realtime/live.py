"""The service under test, on a real socket in this process, with access to its internals."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from pydantic_settings import PydanticBaseSettingsSource
from starlette.types import ASGIApp

from app.realtime import Application, RealtimeSettings
from app.realtime.server.process import Server
from app.realtime.service import Service
from dev import fresh_secrets

from .client import DEADLINE_S, Client, ConnectOptions, connect_options
from .engine import make_app

ORIGIN = "https://example.com"

HIGH_LIMITS = {
    "max_handshakes_per_s": 10_000,
    "max_handshakes_per_s_per_address": 10_000,
    "max_messages_per_s": 100_000,
    "max_bytes_per_s": 1_000_000_000,
    "max_messages_per_s_per_user": 400_000,
    "max_bytes_per_s_per_user": 4_000_000_000,
    "max_bytes_per_s_per_target": 1_000_000_000,
}
"""Limits that tests do not exceed: they connect and send as fast as they can."""

BACKEND = "backend"
"""As the `key` of a request, stands for the value of ``BACKEND_KEY``."""

NO_HEADERS: Mapping[str, str] = {}

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Saves HTTP clients the time to load certificates, which they do not need."""


def settings_with(**overrides: object) -> dict[str, Any]:
    """Return values for settings: fresh secrets, high limits, and the overrides."""
    values: dict[str, Any] = {name.lower(): value for name, value in fresh_secrets().items()}
    values |= {"allowed_origins": (ORIGIN,), "shutdown_grace_s": 2, "clients_may_broadcast": True}
    values |= {"close_timeout_s": 2 * DEADLINE_S}
    return values | HIGH_LIMITS | overrides


class GivenSettings(RealtimeSettings):
    """Settings of the engine from arguments alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: object,
        init_settings: PydanticBaseSettingsSource,
        *args: object,
        **others: object,
    ) -> tuple[PydanticBaseSettingsSource]:
        """Leave out the environment and ``.env``."""
        return (init_settings,)


def make_settings(**overrides: object) -> RealtimeSettings:
    """Return settings of the engine: those of `settings_with`, else the defaults."""
    return GivenSettings(**settings_with(**overrides))


class InProcessServer(Server):
    """A server that leaves signals to pytest and stops with the event `stop`."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self.stop = asyncio.Event()
        app.stop_server = self.stop.set

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to pytest."""
        yield

    async def main_loop(self) -> None:
        """Wait for the event `stop`."""
        await self.stop.wait()


class Live:
    """A running service, with methods to connect to it and to call its routes."""

    def __init__(self, server: InProcessServer, settings: RealtimeSettings, port: int) -> None:
        self.server = server
        self.settings = settings
        self.port = port
        self.service: Service[Any, Any] = server.service
        self.tls: ssl.SSLContext | None = None  # with it, clients connect to `tls_port`
        self.tls_port = 0
        self._clients: list[Client] = []

    @property
    def http_url(self) -> str:
        """Return the base URL of the HTTP routes."""
        return f"http://127.0.0.1:{self.port}"

    async def options(self, user: str = "alice") -> ConnectOptions:
        """Return options to connect as the user."""
        options = await connect_options(self.settings, user, port=self.port)
        if self.tls is None:
            return options
        plain, secure = f"ws://127.0.0.1:{self.port}", f"wss://127.0.0.1:{self.tls_port}"
        return replace(options, uri=options.uri.replace(plain, secure))

    async def connect(self, user: str = "alice") -> Client:
        """Connect as the user. The connection is closed with the service, if not before."""
        return await self.connect_with(await self.options(user))

    async def connect_with(self, options: ConnectOptions, *, welcomed: bool = True) -> Client:
        """Connect with these options."""
        client = await Client.open(options, welcomed=welcomed, tls=self.tls)
        self._clients.append(client)
        return client

    def http(self) -> httpx.AsyncClient:
        """Return a client for the HTTP routes."""
        return httpx.AsyncClient(
            base_url=self.http_url, trust_env=False, verify=NO_TLS, timeout=DEADLINE_S
        )

    async def post(
        self, path: str, body: object, key: str = BACKEND, headers: Mapping[str, str] = NO_HEADERS
    ) -> httpx.Response:
        """Send a POST request with the backend's key, another one, or none."""
        async with self.http() as http:
            return await http.post(path, json=body, headers={**self._keyed(key), **headers})

    async def get(self, path: str, key: str = "") -> httpx.Response:
        """Send a GET request with a key, or without one."""
        async with self.http() as http:
            return await http.get(path, headers=self._keyed(key))

    def _keyed(self, key: str) -> dict[str, str]:
        if key == BACKEND and self.settings.backend_key is not None:
            key = self.settings.backend_key.get_secret_value()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def counts(self) -> Counter[str]:
        """Return the values of all counters but those of frames and bytes, by name and labels."""
        return Counter(
            {
                " ".join((sample.name, *sample.labels.values())): int(sample.value)
                for family in self.service.metrics.registry.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
                and not sample.name.endswith(("_frames_sent_total", "_bytes_total"))
            }
        )

    async def close_clients(self) -> None:
        """Close the connections that `connect` has opened."""
        await asyncio.gather(*(client.close() for client in self._clients))
        self._clients.clear()


@asynccontextmanager
async def run_service(
    settings: RealtimeSettings | None = None, *, ws: Any = None, **parts: Any
) -> AsyncIterator[Live]:
    """Run only the engine; ``parts`` go to `make_app`."""
    async with run_app(make_app(settings or make_settings(), **parts), ws=ws) as live:
        yield live


@asynccontextmanager
async def run_app(app: Application, *, ws: Any = None) -> AsyncIterator[Live]:
    """Run an application on a free port; ``ws`` replaces the protocol class for WebSockets."""
    server = InProcessServer(app)
    config: Any = server.config
    if isinstance(ws, type):
        config.ws = partial(ws, **config.ws.keywords)
    elif ws is not None:
        config.ws = ws
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started or serving.done())
        if serving.done():
            serving.result()
        live = Live(server, app.service.settings, listener.getsockname()[1])
        try:
            yield live
        finally:
            await live.close_clients()
            server.stop.set()
            async with asyncio.timeout(DEADLINE_S):
                await serving


@asynccontextmanager
async def served(app: ASGIApp, **options: Any) -> AsyncIterator[int]:
    """Serve an app with plain uvicorn, as ``uvicorn app.main:app`` does; yield its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **options))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve())
    await wait_until(lambda: server.started or serving.done())
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        async with asyncio.timeout(DEADLINE_S):
            await serving


def leftovers() -> Counter[str]:
    """Count the tasks of this event loop and, on Linux, the open sockets."""
    kinds = Counter({"task": len(asyncio.all_tasks())})
    descriptors = Path("/proc/self/fd")
    for descriptor in descriptors.iterdir() if descriptors.exists() else ():
        with contextlib.suppress(OSError):  # the descriptor of this listing
            kinds["socket"] += os.readlink(descriptor).startswith("socket:")
    return kinds


async def wait_until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


async def wait_until_async(
    condition: Callable[[], Awaitable[bool]], deadline_s: float = DEADLINE_S
) -> None:
    """Wait until an awaitable condition holds."""
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.01)
