"""Your commands, and what happens when a connection begins and ends."""

from .realtime import CommandRouter
from .resources import Connection, Service, State

router = CommandRouter()


@router.connecting
async def begin(service: Service, connection: Connection) -> State:
    """Return what the connection remembers. Raise `Rejected` to refuse it."""
    return State()
