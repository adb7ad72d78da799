"""Your commands, over a real connection and without one. Copy these for commands of your own."""

from app import handlers
from app.resources import Connection, Service, State

from .realtime.live import Live


async def test_a_connection_begins_with_its_state(service: Service, connection: Connection) -> None:
    assert await handlers.begin(service, connection) == State()


async def test_clients_are_welcomed_and_answered(live: Live) -> None:
    client = await live.connect("alice")
    assert client.welcome["type"] == "welcome"
    assert (await client.ask(type="ping"))["type"] == "pong"
