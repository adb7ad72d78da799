"""Your HTTP routes, and your service on another server."""

from app.main import create_app
from app.settings import Settings

from .realtime.client import Client, connect_options
from .realtime.live import Live, served, settings_with


async def test_the_service_is_ready(live: Live) -> None:
    assert (await live.get("/readyz")).json() == {"status": "ready"}


async def test_any_server_can_serve_the_service() -> None:
    settings = Settings(**settings_with())
    async with served(create_app(settings)) as port:
        options = await connect_options(settings, "alice", port=port)
        client = await Client.open(options)
        assert (await client.ask(type="ping"))["type"] == "pong"
        await client.close()
