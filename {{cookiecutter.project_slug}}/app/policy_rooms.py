"""Who may do what in rooms. Edit these functions: the service asks them before every such action.

A refusal is answered by `forbidden`; the connection stays. So does who is in a room already, and
may not join it any more, until the connection ends: `POST /disconnect` sees to that.
"""

from .auth import Identity


async def can_join(identity: Identity, room: str) -> bool:
    """Return whether the user may enter the room, and so read what is said there: everybody may.

    This one may wait, for an answer of a database, say: it is asked once for each visit.
    """
    return True


def can_publish(identity: Identity, room: str) -> bool:
    """Return whether the user, who is in the room, may send to it: whoever got in may.

    Asked for every message, so it is a plain function, for the reasons in `policy`.
    """
    return True
