"""What clients can ask for. Add your own commands here: a model, and a function that handles it."""

from . import policy
from .commands import CommandRouter, Later
from .connection import Connection
from .errors import Forbidden
from .protocol import Broadcast, Ping, Pong, PongReply, Send
from .service import Service

router = CommandRouter()


@router.command(Ping)
async def ping(service: Service, connection: Connection, command: Ping) -> PongReply:
    """Answer, to show that the service is there."""
    return PongReply()


@router.command(Pong)
async def pong(service: Service, connection: Connection, command: Pong) -> None:
    """Do nothing: that the frame came says it all."""


@router.command(Send)
async def send(service: Service, connection: Connection, command: Send) -> Later:
    """Send to every connection of one user, if the team's policy allows it."""
    if not policy.can_send(connection.identity, command.to):
        msg = "you may not send to this user"
        raise Forbidden(msg)
    return Later(service.manager.send_to_user(command.to, command.data, sender=connection.user))


@router.command(Broadcast)
async def broadcast(service: Service, connection: Connection, command: Broadcast) -> Later:
    """Send to everybody, if policy allows it; to the sender's own connection only on request."""
    if not policy.can_broadcast(connection.identity, service.settings):
        msg = "you may not send to everybody"
        raise Forbidden(msg)
    exclude = None if command.echo else connection.id
    return Later(service.manager.broadcast(command.data, sender=connection.user, exclude=exclude))
