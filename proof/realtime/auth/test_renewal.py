"""A connection with newer credentials of the same user."""

from app.realtime.auth.identity import Identity
from app.realtime.connections.delivery import Delivery
from app.realtime.protocol import EXPIRED, REPLACED

from ..connections.test_connection import connect
from ..live import wait_until
from ..recording_wire import RecordingWire


async def test_renewed_credentials_replace_the_expiry() -> None:
    connection = connect(RecordingWire(), Delivery(), expires_at=1.0)
    former = connection._expiry
    connection.renew(Identity("alice", expires_at=None))
    assert former is not None
    assert former.cancelled()
    assert connection._expiry is None


async def test_renewed_credentials_expire_as_well() -> None:
    wire = RecordingWire()
    connection = connect(wire, Delivery(), expires_at=1e15)
    connection.renew(Identity("alice", expires_at=1.0))
    await wait_until(lambda: wire.closes == [EXPIRED])


async def test_renewed_credentials_of_a_closed_connection_leave_no_timer() -> None:
    connection = connect(RecordingWire(), Delivery(), expires_at=1e15)
    connection.close(REPLACED)
    connection.renew(Identity("alice", expires_at=1e15))
    assert connection._expiry is None
