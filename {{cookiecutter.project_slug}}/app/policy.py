"""Who may do what. Edit these functions: the service asks them before every such action."""

from .auth import Identity


async def can_join(identity: Identity, room: str) -> bool:
    """Return whether the user may enter the room, and so read and publish there."""
    return True
