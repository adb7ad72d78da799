"""Only open connections are pinged."""

from app.realtime.auth.identity import Identity
from app.realtime.backplane import Backplane
from app.realtime.connections.connection import Connection
from app.realtime.connections.delivery import Delivery
from app.realtime.connections.heartbeat import Heartbeat
from app.realtime.connections.manager import ConnectionManager
from app.realtime.limits.budget import UserBudget
from app.realtime.protocol import Ok

from ..live import make_settings
from ..recording_wire import RecordingWire


async def test_a_connection_is_pinged_after_its_welcome_only() -> None:
    """Frames that are enqueued before the welcome are dropped, so a ping would get no answer."""
    settings = make_settings(heartbeat_interval_s=10, heartbeat_timeout_s=10)
    delivery = Delivery()
    manager = ConnectionManager(settings, Backplane(), delivery)
    heartbeat = Heartbeat(settings, manager)
    wire = RecordingWire()
    connection = Connection(Identity("alice"), wire, delivery, settings, UserBudget(settings))
    await manager.add(connection)
    heartbeat.check(connection.heard_at + 10)
    connection.open(Ok())
    heartbeat.check(connection.heard_at + 20)
    assert wire.closes == []
    await delivery.catch_up()
    assert len(wire.writes[0]) == 2  # the welcome and the ping
