"""Your commands, and your functions that run when a connection begins or ends."""

from .realtime import CommandRouter
from .resources import Connection, Service, State

router = CommandRouter()


@router.connecting
async def begin(service: Service, connection: Connection) -> State:
    """Return the state of a new connection. Raise `Unauthorized` to refuse it."""
    return State()
