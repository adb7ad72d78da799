"""TLS for the service under test."""

import asyncio
import ssl
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .certificate import server_context
from .live import Live


async def listen_for_tls(live: Live) -> None:
    """Serve TLS on another port, and use it for later WebSocket clients; HTTP stays plain."""
    live.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with TemporaryDirectory() as directory:
        certificate = Path(directory, "certificate.pem")
        context = server_context(certificate)
        live.tls.load_verify_locations(certificate)
    config = live.server.config
    protocol_class: Any = config.http_protocol_class
    protocol = partial(
        protocol_class,
        config=config,
        server_state=live.server.server_state,
        app_state=live.server.lifespan.state,
    )
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context)
    live.tls_port = listener.sockets[0].getsockname()[1]
    live.server.servers.append(listener)
