"""Your HTTP routes, and what the service tells about itself."""

from app.main import app

from .realtime.live import Live


async def test_the_service_is_ready(live: Live) -> None:
    assert (await live.get("/readyz")).json() == {"status": "ready"}


def test_the_service_can_be_served_by_any_server() -> None:
    assert app.service.settings.environment == "production"
