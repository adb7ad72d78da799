"""The process: uvicorn, set up for this service, and a shutdown that says goodbye."""

import asyncio
import gc
import random
import socket
from contextlib import suppress

import structlog
import uvicorn

from .logging import configure_logging
from .main import ServiceSettings, create_app
from .protocol import SERVICE_RESTART
from .service import Service
from .wire_uvicorn import FrameProtocol

DRAIN_BATCH = 100
DRAIN_PAUSE_S = 0.1

GARBAGE_THRESHOLD = 50_000
"""New objects that set off a collection; Python's default is 700."""

log = structlog.stdlib.get_logger(__name__)


class Server(uvicorn.Server):
    """uvicorn, which drains the service before it stops."""

    def __init__(self, settings: ServiceSettings) -> None:
        app = create_app(settings)
        self.service: Service = app.state.service
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                ws=FrameProtocol,
                ws_max_size=settings.max_message_bytes,
                ws_ping_interval=settings.ws_ping_interval_s or None,
                ws_ping_timeout=settings.ws_ping_timeout_s,
                # A shared frame cannot be compressed for each peer, and secrets beside text of a
                # stranger's choice should not be (CRIME).
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=settings.shutdown_grace_s // 2,
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse newcomers, close connections little by little, then stop."""
        self.service.manager.draining = True
        connections = list(self.service.manager)
        log.info("draining", connections=len(connections))
        random.shuffle(connections)
        # All are told in the first half of the grace period; the second is for leaving.
        batches = max(1, round(self.service.settings.shutdown_grace_s / 2 / DRAIN_PAUSE_S))
        size = max(DRAIN_BATCH, -(-len(connections) // batches))
        for start in range(0, len(connections), size):
            for connection in connections[start : start + size]:
                connection.close(SERVICE_RESTART)
            if start + size < len(connections):
                await asyncio.sleep(DRAIN_PAUSE_S)
        await super().shutdown(sockets)


def main() -> None:
    """Serve until a signal comes; complain in one line for each wrong setting."""
    settings = ServiceSettings.load()
    configure_logging(settings)
    server = Server(settings)
    spare_garbage_collector()
    with suppress(KeyboardInterrupt):  # uvicorn repeats the signal after it has shut down
        server.run()


def spare_garbage_collector() -> None:
    """Have the collector look less often at what is no garbage.

    By default it walks through a share of all connections' objects for every few handshakes, and
    everybody waits. A connection that ended leaves no cycles behind, see `wire_uvicorn`.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
