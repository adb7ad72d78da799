"""How a message reaches every node.

A node subscribes to the channels of what it hosts: `ALL`, and one for each user that is connected
to it. It gets each envelope once and delivers it to its own connections.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NewType, Self

from pydantic import BaseModel, TypeAdapter

from .futures import done
from .protocol import STRICT, Data, UserName

Channel = NewType("Channel", str)

ALL = Channel("all")


def user_channel(user: str) -> Channel:
    """Return the channel of one user's connections."""
    return Channel(f"user:{user}")


def check_frame(data: object) -> None:
    """Raise `ValueError` unless this is the JSON object of a frame of the team's own."""
    if not isinstance(data, dict):
        msg = "a frame is a JSON object"
        raise ValueError(msg)


@dataclass(slots=True)
class Envelope:
    """A message on its way between nodes.

    # {% if cookiecutter.redis %}
    ``sender`` is None for the server, ``exclude`` the id of a connection that is to be left out,
    ``trace`` the ``traceparent`` of what has caused the message, if that is traced.
    # {% else %}
    ``sender`` is None for the server, ``exclude`` the id of a connection that is to be left out.
    # {% endif %}
    """

    # A node of the next version may tell more; what this one does not know, it leaves out.
    __pydantic_config__ = STRICT | {"extra": "ignore"}

    sender: UserName | None
    data: Data
    exclude: str | None = None
    # {% if cookiecutter.redis %}
    trace: str | None = None
    # {% endif %}

    def encode(self) -> bytes:
        """Return the envelope as JSON."""
        return _adapters[type(self)].serializer.to_json(self, exclude_defaults=True)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return the envelope that the payload holds.

        Raises:
            ValidationError: it holds something else.

        """
        envelope: Self = _adapters[cls].validator.validate_json(payload)
        return envelope


class _Adapters(dict[type[Envelope], TypeAdapter[Any]]):
    """The type adapter of each kind of envelope, made on its first use."""

    def __missing__(self, kind: type[Envelope]) -> TypeAdapter[Any]:
        adapter = self[kind] = TypeAdapter(kind)
        return adapter


_adapters = _Adapters()


class Publication(BaseModel):
    """What the team's backend publishes: to one user, or to everybody."""

    model_config = STRICT

    data: Data
    user: UserName | None = None


Deliver = Callable[[Any], None]
OnGap = Callable[[], None]


@dataclass(slots=True, eq=False)
class Subscription:
    """The subscription of a node to one channel, whose envelopes are all of a kind.

    When some may have been missed, ``on_gap`` is called, if there is one.
    """

    channel: Channel
    deliver: Deliver
    kind: type[Envelope] = Envelope
    on_gap: OnGap | None = None
    confirmed: bool = False


class Backplane:
    """Carries envelopes to the nodes that host a channel: at most once, in order per publisher.

    This one is for a single node, where what is published is delivered at once.
    """

    def __init__(self) -> None:
        self.hosted: dict[Channel, Subscription] = {}

    @property
    def healthy(self) -> bool:
        """Whether messages flow just now."""
        return True

    def publish(
        self, channel: Channel, envelope: Envelope, message_id: str | None = None
    ) -> asyncio.Future[int]:
        """Deliver to every node that hosts the channel, this one included.

        The future yields the number of these nodes when the message is on its way, or fails with
        `Unavailable`. Messages keep the order of the calls: a caller may publish the next one
        without waiting.

        Of several messages with one id, only the first is published. A single node needs no id:
        what failed was not published.
        """
        subscription = self.hosted.get(channel)
        if subscription is not None:
            subscription.deliver(envelope)
        return done(int(subscription is not None))

    async def count_nodes(self, channel: Channel) -> int:
        """Return the number of nodes that host the channel.

        Raises:
            Unavailable: it is not known now.

        """
        return int(channel in self.hosted)

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Host a channel; return the subscription, which holds once `confirm` has returned."""
        self.hosted[subscription.channel] = subscription
        return subscription

    async def confirm(self, subscription: Subscription) -> None:
        """Wait until nothing that is published from now on can be missed.

        Raises:
            Unavailable: the confirmation does not come in time.

        """

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Host the channel no more; return whether the subscription still had it."""
        if self.hosted.get(subscription.channel) is not subscription:
            return False
        del self.hosted[subscription.channel]
        return True
