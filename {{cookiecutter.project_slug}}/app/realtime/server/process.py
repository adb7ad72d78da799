"""The process: uvicorn, configured for this service, with a graceful shutdown.

It exits with status 0 after SIGTERM or SIGINT, and with 1 if an essential part failed or the
shutdown took too long. A second signal ends it at once.
"""

# {% if cookiecutter.redis %}
import asyncio
# {% endif %}
import gc
import math
import os
import random
import resource
import signal
import socket
import sys
from asyncio import get_running_loop, sleep
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from threading import Thread
from time import monotonic
from types import FrameType

import structlog
import uvicorn

from ..application import Application
from ..protocol import SERVICE_RESTART
from ..settings.settings import RealtimeSettings
from .http import REASONS, HttpProtocol
from .logging import LINES, configure_logging
from .websocket import REFUSALS, FrameProtocol
# {% if cookiecutter.redis %}
from .workers import Parent, this_worker
# {% endif %}

INTERRUPT_GRACE_S = 1.0
"""How long the shutdown may take after Ctrl+C."""

EXIT_FAILURE = 1

SPARE_DESCRIPTORS = 1_000
"""File descriptors for HTTP, databases and files, besides those for `MAX_CONNECTIONS`."""

CLEAN_UP_SHARE = 0.3
"""The share of the grace period that is kept for jobs and resources to end, and for the log."""

UVICORN_PAUSE_S = 0.1
"""How long uvicorn's shutdown sleeps before its timeout begins."""

LOG_SHARE = 0.05
"""The share of the grace period that is kept to log that the shutdown took too long."""

DRAIN_PER_S = 100
"""Connections closed per second; more if half of the grace period is too short for all.

When the clients reconnect, ``MAX_HANDSHAKES_PER_S`` applies.
"""
DRAIN_PAUSE_S = 0.1
DRAIN_BATCH = round(DRAIN_PER_S * DRAIN_PAUSE_S)

RECEIVE_S = 1 / 8
"""How long a connection may send at its limit until the system's receive buffer is full.

So clients whose round trip takes longer cannot reach ``MAX_BYTES_PER_S``.
"""

LARGE_RECEIVE_BYTES = 131_072
"""From this size on, the system chooses the size of the receive buffer."""

KEEPALIVE_IDLE_S = 60
"""Silence after which the system probes the peer. Pings, if enabled, do so earlier."""
KEEPALIVE_INTERVAL_S = 10

GARBAGE_THRESHOLDS = (10_000, 2, 40)
"""New objects before a collection, and collections before one of an older generation (`gc`).

A collection stops the event loop for about a microsecond per object. It examines 10,000 young
objects, 30,000 of the middle generation, or all objects, about 90 per connection: all only after a
million new ones, far less often than by Python's default. The first number also bounds the garbage
of handlers that leave reference cycles.
"""

log = structlog.stdlib.get_logger(__name__)


class Server(uvicorn.Server):
    """uvicorn's server, which drains the service before it stops."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.service = app.service
        settings = self.service.settings
        self._ends_at = math.inf
        self._delay_s = settings.shutdown_delay_s
        self._grace_s = float(settings.shutdown_grace_s)
        self._has_descriptors = True
        self.next_signal = signal.SIG_DFL
        """The action of a second signal."""
        metrics = self.service.metrics
        metrics.watch_counts("log_lines", "Lines logged.", "level", LINES.copy)
        refusals = metrics.counter(
            "requests_refused",
            "HTTP requests that the server refused by itself, and malformed handshakes.",
            labels=("status",),
            known=((int(status),) for status in (*REASONS, *REFUSALS)),
        )
        http = partial(
            HttpProtocol,
            timeout_s=settings.handshake_timeout_s,
            refusals=refusals,
            connections=self.service.admission.http,
        )
        ws = partial(FrameProtocol, close_timeout_s=settings.close_timeout_s, refusals=refusals)
        super().__init__(
            uvicorn.Config(
                app,
                # For asyncio, "" means all addresses of IPv4 and IPv6; `::` would mean IPv6 only.
                host="" if settings.host == "::" else settings.host,
                port=settings.port,
                # uvicorn only calls them.
                http=http,  # type: ignore[arg-type]
                forwarded_allow_ips=list(settings.forwarded_allow_ips),
                ws=ws,  # type: ignore[arg-type]
                ws_max_size=settings.max_message_bytes,
                ws_ping_interval=settings.ws_ping_interval_s or None,
                ws_ping_timeout=settings.ws_ping_timeout_s,
                # A frame shared by many peers cannot be compressed for each of them, and
                # compression leaks secrets next to text of an attacker (CRIME).
                ws_per_message_deflate=False,
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. Accepted sockets inherit the options of the listening one."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                for option in socket_options(self.service.settings):
                    listener.setsockopt(*option)
                if self.service.settings.port == 0:
                    # A warning, so that the port is visible with LOG_LEVEL=WARNING, too.
                    log.warning("listening", port=listener.getsockname()[1])

    async def on_tick(self, counter: int) -> bool:
        """Log once when no file descriptor is left: uvloop then cuts clients off in silence."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
            self._has_descriptors = True
        except OSError as failure:
            if self._has_descriptors:
                log.error("new clients are cut off", error=failure.strerror)
            self._has_descriptors = False
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown. The next signal gets its default action: it ends the process.

        A signal of the application itself, after a job has failed, does not count as the first.
        """
        if self.should_exit or not self.app.failed:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.next_signal)
        if self.should_exit:
            return
        self.service.stopping = True  # now, since `shutdown` begins up to 0.1 s later
        if self.app.failed:
            self._delay_s = 0.0
        if sig == signal.SIGINT:
            self._delay_s, self._grace_s = 0.0, INTERRUPT_GRACE_S
        self._ends_at = monotonic() + self._delay_s + self._grace_s
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, self._delay_s + (1 - LOG_SHARE) * self._grace_s)
        self.should_exit = True

    def _give_up(self, sig: int, frame: FrameType | None) -> None:
        # The cause may be a handler that ignores its cancellation, or the log itself: if nobody
        # reads standard error, a writer blocks and holds the lock. So log in another thread.
        logger_thread = Thread(
            target=log.critical,
            args=("the service did not stop in time",),
            kwargs={"seconds": self._grace_s},
            daemon=True,
        )
        try:
            logger_thread.start()
            logger_thread.join(LOG_SHARE * self._grace_s)
        finally:
            os._exit(EXIT_FAILURE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer ``/readyz`` with 503 for a while; then refuse clients, close connections and stop.

        At most half of the grace period is for closing connections in batches, `CLEAN_UP_SHARE` is
        for the end of the application, and the peers have the rest to disconnect.
        """
        self.service.stopping = True
        ends_at = min(self._ends_at, monotonic() + self._delay_s + self._grace_s)
        if self._delay_s:
            await sleep(self._delay_s)
        self.service.manager.draining = True
        await self._drain(get_running_loop().time() + self._grace_s / 2)
        left_s = ends_at - CLEAN_UP_SHARE * self._grace_s - UVICORN_PAUSE_S - monotonic()
        self.config.timeout_graceful_shutdown = max(0.0, left_s)
        await super().shutdown(sockets)

    async def _drain(self, until: float) -> None:
        # Batches with random pauses, so that clients do not reconnect all at once.
        loop = get_running_loop()
        connections = list(self.service.manager)
        log.info("draining", connections=len(connections))
        random.shuffle(connections)
        while connections:
            pauses_left = max(1.0, (until - loop.time()) / DRAIN_PAUSE_S)
            size = max(DRAIN_BATCH, math.ceil(len(connections) / pauses_left))
            batch, connections = connections[:size], connections[size:]
            for connection in batch:
                connection.close(SERVICE_RESTART)
            if connections:
                await sleep(random.uniform(0, 2 * DRAIN_PAUSE_S))


def socket_options(settings: RealtimeSettings) -> Iterator[tuple[int, int, int]]:
    """Yield socket options that bound the memory of a peer, and detect one that has vanished.

    With unacknowledged data, the user timeout applies (RFC 5482), otherwise keepalive. The times
    can be set on Linux only.
    """
    received_bytes = round(RECEIVE_S * settings.max_bytes_per_s)
    if received_bytes < LARGE_RECEIVE_BYTES:
        yield socket.SOL_SOCKET, socket.SO_RCVBUF, received_bytes
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    if sys.platform == "linux":
        yield socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S
        yield socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S
        yield socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * settings.tcp_user_timeout_s)


def check_host(host: str) -> None:
    """Exit unless all addresses of a host can be bound. uvicorn tries only after app startup.

    Raises:
        SystemExit: an address cannot be bound.
    """
    try:
        for family, *_, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio does
                probe.bind(address)
    except (OSError, UnicodeError) as failure:  # also a label that is too long
        reason = getattr(failure, "strerror", None) or failure
        advice = "write 127.0.0.1 or 0.0.0.0"
        raise SystemExit(f"error: HOST: cannot listen at {host}: {reason}; {advice}") from None


def fill_standard_descriptors() -> None:
    """Open those of 0 to 2 that are closed: libuv aborts if a socket of its own gets one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def raise_descriptor_limit(max_connections: int) -> None:
    """Raise the soft limit of file descriptors to what the connections need, or log a warning."""
    needed = max_connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft < needed:
        log.warning("too few file descriptors", needed=needed, allowed=soft)


def serve(app: Application) -> None:
    """Serve until a signal arrives.

    Raises:
        SystemExit: an essential job has failed, or the service cannot listen at `HOST`.
            # {% if cookiecutter.redis %}
            The parent of several processes always raises it.
            # {% endif %}
    """
    settings, sockets = app.service.settings, None
    fill_standard_descriptors()
    configure_logging(settings)
    raise_descriptor_limit(settings.max_connections)
    # {% if cookiecutter.redis %}
    worker = this_worker()
    if worker is None and settings.host != "::":  # which means all addresses
        check_host(settings.host)
    if settings.environment == "development":  # two nodes log to one terminal, see `dev.nodes`
        structlog.contextvars.bind_contextvars(port=settings.port)
    if worker is not None:
        number, sockets = worker
        app.service.metrics.port = sockets[-1].getsockname()[1]
        structlog.contextvars.bind_contextvars(worker=number)
    elif settings.workers > 1:
        raise SystemExit(asyncio.run(Parent(settings).run()))
    # {% else %}
    if settings.host != "::":  # which means all addresses
        check_host(settings.host)
    # {% endif %}
    server = Server(app)
    tune_garbage_collector()
    with suppress(KeyboardInterrupt):  # before uvicorn handles signals
        # {% if cookiecutter.redis %}
        if worker is not None:
            # The parent passes on its signals, so one sent to all processes arrives twice.
            server.next_signal = signal.SIG_IGN
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # {% endif %}
        server.run(sockets)
    if app.failed:
        raise SystemExit(EXIT_FAILURE)


def tune_garbage_collector() -> None:
    """Make garbage collections rare: with many connections, each one stops the event loop for long.

    Connections leave no reference cycles behind, see `FrameProtocol`.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
