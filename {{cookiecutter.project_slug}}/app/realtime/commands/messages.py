"""The commands of every service: ping, pong, and messages to a user or to everybody."""

from asyncio import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..backplane import ALL, Envelope, user_channel
from ..connections.connection import Connection
from ..errors import Forbidden
from ..futures import now_or_later
from ..idempotency import send_once
from ..policy import Policy, settled
from ..protocol import Broadcast, Ok, Ping, Pong, PongReply, Send
from ..service import Service
from .router import CommandRouter


@dataclass(slots=True, kw_only=True)
class SendOk(Ok):
    # {% if cookiecutter.redis %}
    """The message was accepted; ``reached`` is the number of nodes with the user."""
    # {% else %}
    """The message was accepted; ``reached`` is 1 if the user is connected, and 0 if not."""
    # {% endif %}

    reached: int


def _send_ok(reached: int) -> SendOk:
    return SendOk(reached=reached)


def message_commands(policy: Policy[Any, Any]) -> CommandRouter:
    """Return the commands, which ask this policy."""
    router = CommandRouter()

    @router.command(Ping)
    async def ping(service: Service, connection: Connection, command: Ping) -> PongReply:
        """Answer with a pong."""
        return PongReply()

    @router.command(Pong)
    async def pong(service: Service, connection: Connection, command: Pong) -> None:
        """Do nothing: any frame shows that the client is alive."""

    @router.command(Send)
    async def send(
        service: Service, connection: Connection, command: Send
    ) -> SendOk | Future[SendOk]:
        """Send to every connection of one user."""
        answer = policy.can_send(service, connection, command.to)
        if answer is not True and not await settled(answer):
            raise Forbidden("you may not send to this user")
        target, envelope = user_channel(command.to), Envelope(connection.user, command.data)
        connection.limits.pay_for_message(target, command.data, 1)
        if command.key is None:
            return now_or_later(service.backplane.publish(target, envelope), _send_ok)
        key, timeout_s = connection.pay_for_key(command.key), service.settings.handler_timeout_s
        send = partial(service.backplane.publish, target, envelope)
        return _send_ok(await send_once(service.client_requests, key, command, send, timeout_s))

    @router.command(Broadcast)
    async def broadcast(
        service: Service, connection: Connection, command: Broadcast
    ) -> Ok | Future[Ok]:
        """Send to everybody; to the sender's own connection only with ``echo``."""
        answer = policy.can_broadcast(service, connection)
        if answer is not True and not await settled(answer):
            raise Forbidden("you may not send to everybody")
        connection.limits.pay_for_message(ALL, command.data, len(service.manager))
        exclude = None if command.echo else connection.id
        envelope = Envelope(connection.user, command.data, exclude)
        return now_or_later(service.backplane.publish(ALL, envelope), lambda count: Ok())

    return router
