"""How to connect to the service that `.env` describes: ``python -m dev.connect alice``.

Prints one JSON object: ``uri``, ``headers`` and ``subprotocols`` for a WebSocket client.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from urllib.parse import urlencode

from app.realtime import RealtimeSettings
from app.settings import Settings

from . import credentials


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """The parameters of a WebSocket client that connects as some user."""

    uri: str
    headers: dict[str, str]
    subprotocols: list[str]


async def connect_options(
    settings: RealtimeSettings, user: str, *, port: int | None = None
) -> ConnectOptions:
    """Return options to connect as the user, to the settings' own port or another."""
    # Not every system can connect to a wildcard address.
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    address = f"[{host}]" if ":" in host else host
    address = f"{address}:{settings.port if port is None else port}"
    handshake = await credentials(settings, f"http://{address}", user)
    query = f"?{urlencode(handshake.query)}" if handshake.query else ""
    return ConnectOptions(f"ws://{address}/ws{query}", handshake.headers, handshake.subprotocols)


async def main(user: str) -> None:
    """Print the options for a user."""
    print(json.dumps(asdict(await connect_options(Settings.load(), user))))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "alice"))
