"""The process: uvicorn, set up for this service, and a shutdown that says goodbye.

It ends with status 0 if it was asked to, by SIGTERM or SIGINT, and with 1 if it could not go on, or
not stop in time. A second signal ends it on the spot.
"""

import gc
import math
import os
import random
import signal
import socket
import sys
from asyncio import get_running_loop, sleep
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from threading import Thread
from types import FrameType

import structlog
import uvicorn

from ..application import Application
from ..protocol import SERVICE_RESTART
from .http import REASONS, HttpProtocol
from .logging import configure_logging
from .websocket import REFUSALS, FrameProtocol

INTERRUPT_GRACE_S = 1.0
"""How long stopping may take after Ctrl+C, for which somebody waits."""

EXIT_FAILURE = 1

LAST_WORDS = 0.05
"""The share of the time for stopping that is left to log that it was not enough."""

DRAIN_PER_S = 100
"""How fast connections are closed, if they all fit into half of the time that stopping may take.

Other nodes have to let them in, see ``MAX_HANDSHAKES_PER_S``.
"""
DRAIN_PAUSE_S = 0.1
DRAIN_BATCH = round(DRAIN_PER_S * DRAIN_PAUSE_S)

KEEPALIVE_IDLE_S = 60
"""After how much silence the system looks for the peer; pings, if any are sent, do so earlier."""
KEEPALIVE_INTERVAL_S = 10

GARBAGE_THRESHOLDS = (10_000, 2, 40)
"""How many new objects set off a collection, and how many of these one of older objects (`gc`).

A collection stops the event loop, for about a microsecond per object. It looks at 10,000 objects,
or at 30,000 of the middle generation; at all of them, some 90 for each connection, only after more
than a million new ones. Python's default is 700 new objects, and all of them after 70,000. The
first number also bounds the garbage of handlers that leave reference cycles.
"""

log = structlog.stdlib.get_logger(__name__)


class Server(uvicorn.Server):
    """uvicorn, which drains the service before it stops."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.service = app.service
        settings = self.service.settings
        self._grace_s = float(settings.shutdown_grace_s)
        refusals = self.service.metrics.count_by(
            ("status",),
            "requests_refused",
            "Requests, handshakes among them, that are none.",
            known=((int(status),) for status in (*REASONS, *REFUSALS)),
        )
        http = partial(HttpProtocol, timeout_s=settings.handshake_timeout_s, refusals=refusals)
        ws = partial(FrameProtocol, close_timeout_s=settings.close_timeout_s, refusals=refusals)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                # Both need only be callable.
                http=http,  # type: ignore[arg-type]
                forwarded_allow_ips=list(settings.forwarded_allow_ips),
                ws=ws,  # type: ignore[arg-type]
                ws_max_size=settings.max_message_bytes,
                ws_ping_interval=settings.ws_ping_interval_s or None,
                ws_ping_timeout=settings.ws_ping_timeout_s,
                # A shared frame cannot be compressed for each peer, and secrets beside text of a
                # stranger's choice should not be (CRIME).
                ws_per_message_deflate=False,
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; sockets that are accepted inherit the options of the one that listens."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                for option in socket_options(self.service.settings.tcp_user_timeout_s):
                    listener.setsockopt(*option)
                if self.service.settings.port == 0:
                    # A warning, so that LOG_LEVEL=WARNING does not hide what only the system knows.
                    log.warning("listening on port %d", listener.getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the next signal is the system's, which then ends the process at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if sig == signal.SIGINT:
            self._grace_s = INTERRUPT_GRACE_S
        signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, (1 - LAST_WORDS) * self._grace_s)
        self.should_exit = True

    def _give_up(self, sig: int, frame: FrameType | None) -> None:
        # Whatever keeps the process, be it a handler that does not let itself be cancelled, or the
        # log itself: nobody reads standard error, and who writes there waits, and holds its lock.
        last_words = Thread(
            target=log.critical,
            args=("the service did not stop in time",),
            kwargs={"seconds": self._grace_s},
            daemon=True,
        )
        try:
            last_words.start()
            last_words.join(LAST_WORDS * self._grace_s)
        finally:
            os._exit(EXIT_FAILURE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse newcomers, close connections little by little, wait for what is under way, stop.

        Half of the time is for telling everybody, most of the rest for leaving.
        """
        self.service.manager.draining = True
        await self._drain(get_running_loop().time() + self._grace_s / 2)
        self.config.timeout_graceful_shutdown = 0.4 * self._grace_s  # type: ignore[assignment]
        await super().shutdown(sockets)

    async def _drain(self, until: float) -> None:
        # In batches, after random pauses: whoever comes back at once shall not do so together with
        # all the others.
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


def socket_options(user_timeout_s: float) -> Iterator[tuple[int, int, int]]:
    """Yield what has the system give up a peer that vanished without a word.

    One that leaves data unacknowledged, or untaken, goes after the user timeout (RFC 5482); one
    that is owed nothing goes when it gives no sign of life. Linux alone lets the times be chosen.
    """
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    if sys.platform == "linux":
        yield socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S
        yield socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S
        yield socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * user_timeout_s)


def serve(app: Application) -> None:
    """Serve until a signal comes.

    Raises:
        SystemExit: a part that the service cannot do without has failed.

    """
    configure_logging(app.service.settings)
    server = Server(app)
    spare_garbage_collector()
    with suppress(KeyboardInterrupt):  # from before uvicorn listens to signals
        server.run()
    if app.failed:
        raise SystemExit(EXIT_FAILURE)


def spare_garbage_collector() -> None:
    """Have the collector look less often at what is no garbage.

    By default it walks through a share of all connections' objects for every few handshakes, and
    everybody waits. A connection that ended leaves no cycles behind, see `wire_uvicorn`.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
