"""The commands of rooms: join, leave, publish, presence."""

from asyncio import Future
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue
from pydantic_core import to_json

from ..connections.connection import Connection
from ..errors import BadRequest, Forbidden
from ..futures import now_or_later, then
from ..idempotency import send_once
from ..metrics import Metrics
from ..policy import Policy, settled
from ..protocol import Command, Data, Identifier, Ok
from ..rooms.history import Position, room_channel
from ..rooms.presence import Member, Members, encode_info
from ..rooms.rooms import RoomName, check_since_or_last
from ..service import Service
from .router import CommandRouter

RECOVERED = {None: "none", False: "no", True: "yes"}
"""Values of the label ``recovered``."""

MEMBER_BYTES = 40
"""Bytes of a `Member` besides the user's name and info."""

ANSWER_BYTES = 512
"""Bytes of an answer besides its members: most are an id whose characters JSON escapes."""


class Join(Command):
    """Enter a room; with ``since``, get the messages after that position.

    With ``last`` instead, get at most that many of the last messages, if they are kept. ``info``
    tells members about the user, in at most 1 KiB of JSON; a repeated join may change it.
    """

    type: Literal["join"]
    room: RoomName
    since: Position | None = None
    last: Annotated[int, Field(ge=0, lt=2**53)] = 0
    info: Data = None


class Leave(Command):
    """Leave a room."""

    type: Literal["leave"]
    room: RoomName


class Publish(Command):
    """Send ``data`` to all members of a room; to this connection only with ``echo``.

    Without ``keep``, the message is not part of the room's history. Repeated with the same ``key``,
    the command is carried out once.
    """

    type: Literal["publish"]
    room: RoomName
    data: Data
    echo: bool = False
    keep: bool = True
    key: Identifier | None = None


class Presence(Command):
    """Ask for the users in a room."""

    type: Literal["presence"]
    room: RoomName


@dataclass(slots=True, kw_only=True)
class JoinOk(Ok):
    """The connection is in the room; ``offset`` is the position after the replayed messages.

    ``recovered`` is null without ``since``, and false when messages may have been missed.
    ``replayed`` tells how many messages follow.
    """

    room: str
    epoch: str
    offset: int
    recovered: bool | None
    replayed: int


@dataclass(slots=True, kw_only=True)
class PublishOk(Ok):
    """The message was accepted; ``offset`` is its number in the room's epoch, null if not kept.

    Older messages may still be on their way to the publisher.
    """

    offset: int | None


@dataclass(slots=True, kw_only=True)
class PresenceOk(Ok):
    """The number of users in the room, and a list of them, which is incomplete in large rooms."""

    members: list[Member]
    total: int


def _offset(position: Position) -> int | None:
    return position.offset or None


def _publish_ok(position: Position) -> PublishOk:
    return PublishOk(offset=_offset(position))


async def _offset_later(
    pass_on: Callable[..., Coroutine[Any, Any, Future[Position]]], message_id: str
) -> Future[int | None]:
    return then(await pass_on(message_id=message_id), _offset)


def members_within(max_bytes: int, presence: Members) -> Iterator[Member]:
    """Yield the listed users, as many as fit in an answer of this size."""
    max_bytes -= ANSWER_BYTES
    for member in presence.members:
        max_bytes -= len(to_json(member.user)) + len(to_json(member.info)) + MEMBER_BYTES
        if max_bytes < 0:
            return
        yield member


async def _check_join(
    policy: Policy[Any, Any], service: Service, connection: Connection, room: str
) -> None:
    """Raise `Forbidden` unless the policy allows the join."""
    if not await settled(policy.can_join(service, connection, room)):
        raise Forbidden("you may not join this room")


async def _info(
    policy: Policy[Any, Any], service: Service, connection: Connection, command: Join
) -> JsonValue:
    """Return the policy's info of a user who joins, and charge the connection as for a message."""
    encode_info(command.info)  # an error here is the client's mistake; below, it is the policy's
    info = policy.presence_info(service, connection, command.room, command.info)
    if isinstance(info, Awaitable):
        info = await info
        # Meanwhile, the user may have lost the permission and been evicted.
        await _check_join(policy, service, connection, command.room)
    try:
        size_bytes = len(encode_info(info))
    except BadRequest as failure:
        raise ValueError(f"presence_info: {failure}") from failure
    if info is not None:
        channel, members = room_channel(command.room), service.rooms.members_here(command.room)
        connection.limits.pay_for_message(channel, info, members, size_bytes)
    return info


def room_commands(policy: Policy[Any, Any], metrics: Metrics) -> CommandRouter:
    """Return the commands of rooms, which follow this policy."""
    router = CommandRouter()
    joins = metrics.counter(
        "joins",
        "Joins, by recovery: none, yes or no.",
        labels=("recovered",),
        known=((recovered,) for recovered in RECOVERED.values()),
    )
    replayed = metrics.counter("messages_replayed", "Messages sent from the history of rooms.")

    @router.command(Join)
    async def join(service: Service, connection: Connection, command: Join) -> JoinOk:
        """Enter the room, if the policy allows it; missed messages follow the reply."""
        check_since_or_last(command.since, command.last)
        await _check_join(policy, service, connection, command.room)
        info = await _info(policy, service, connection, command)
        since, last = command.since, command.last
        replay = await service.rooms.join(connection, command.room, since, last, info)
        joins.labels(RECOVERED[replay.recovered]).inc()
        replayed.inc(len(replay.frames))
        return JoinOk(
            room=command.room,
            epoch=replay.position.epoch,
            offset=replay.position.offset,
            recovered=replay.recovered,
            replayed=len(replay.frames),
            followed_by=replay.frames,
        )

    @router.command(Leave)
    async def leave(service: Service, connection: Connection, command: Leave) -> None:
        """Leave the room. Not being in it is no error."""
        service.rooms.leave(connection, command.room)

    @router.command(Publish)
    async def publish(
        service: Service, connection: Connection, command: Publish
    ) -> PublishOk | Future[PublishOk]:
        """Send to the room's members, if the sender is one and the policy allows it."""
        service.rooms.check_joined(connection, command.room)
        answer = policy.can_publish(service, connection, command.room)
        if answer is not True and not await settled(answer):
            raise Forbidden("you may not publish to this room")
        members = service.rooms.members_here(command.room)
        connection.limits.pay_for_message(room_channel(command.room), command.data, members)
        exclude = None if command.echo else connection.id
        pass_on = partial(
            service.rooms.pass_on,
            command.room,
            command.data,
            member=connection,
            exclude=exclude,
            keep=command.keep,
        )
        if command.key is None:
            return now_or_later(await pass_on(), _publish_ok)
        send = partial(_offset_later, pass_on)
        key, timeout_s = connection.pay_for_key(command.key), service.settings.handler_timeout_s
        offset = await send_once(service.client_requests, key, command, send, timeout_s)
        return PublishOk(offset=offset)

    @router.command(Presence)
    async def presence(service: Service, connection: Connection, command: Presence) -> PresenceOk:
        """List the room's users, as many as fit in the largest allowed message."""
        service.rooms.check_joined(connection, command.room)
        present = await service.rooms.presence(command.room)
        service.rooms.check_joined(connection, command.room)  # the user may have been evicted
        members = members_within(service.settings.max_message_bytes, present)
        return PresenceOk(members=list(members), total=present.total)

    return router
