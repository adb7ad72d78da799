"""Who may send what. Edit these functions: the service asks them before every such message.

They are plain functions, since they stand in the way of every message: a coroutine would cost more
than what it checks, and one that waits for a database would hold up all that the client sends next.
So decide by the identity. What has to be known of the user for that belongs into the credentials,
where `identity.claims` has it from. A refusal is answered by `forbidden`; the connection stays.
"""

from .auth import Identity
from .settings import Settings


def can_send(identity: Identity, to: str) -> bool:
    """Return whether the user may send to all connections of the user ``to``: to anybody."""
    return True


def can_broadcast(identity: Identity, settings: Settings) -> bool:
    """Return whether the user may send to everybody at once: nobody, unless a setting says so.

    One message costs as much as there are connections, and nobody has asked for it.
    """
    return settings.clients_may_broadcast
