"""How a message reaches its recipients.

A process subscribes to the channels that its connections need, such as `ALL` and one for each of
their users. It gets each envelope once and delivers it to its own connections.
"""

import asyncio
from collections.abc import Callable
# {% if cookiecutter.rooms %}
from dataclasses import dataclass, field
# {% else %}
from dataclasses import dataclass
# {% endif %}
from typing import Literal, NewType

from .futures import done
# {% if cookiecutter.redis %}
from .protocol import STRICT, Data, UserName
# {% else %}
from .protocol import Data, UserName
# {% endif %}

Channel = NewType("Channel", str)

ALL = Channel("all")


def user_channel(user: str) -> Channel:
    """Return the channel of one user's connections."""
    return Channel(f"user:{user}")


# {% if cookiecutter.rooms %}
Event = Literal["frame", "disconnect", "joined", "updated", "left", "evicted"]
# {% else %}
Event = Literal["frame", "disconnect"]
# {% endif %}


@dataclass(slots=True)
class Envelope:
    """What the backplane carries: a message, a frame of the team's own, or an event.

    # {% if cookiecutter.redis %}
    ``sender`` is None for the server. ``exclude`` is the id of a connection that must not get it.
    ``trace`` is the ``traceparent`` of the span that caused the message, if it is traced.
    # {% else %}
    ``sender`` is None for the server. ``exclude`` is the id of a connection that must not get it.
    # {% endif %}
    # {% if cookiecutter.rooms %}

    In a room's event about a user, ``sender`` is that user, and ``data`` the user's info, or the
    reason of ``evicted``. Only messages published with ``keep`` have an ``offset``.
    # {% endif %}
    """

    # {% if cookiecutter.redis %}
    # Ignore unknown fields: a newer node may send them.
    __pydantic_config__ = STRICT | {"extra": "ignore"}

    # {% endif %}
    sender: UserName | None
    data: Data
    exclude: str | None = None
    # {% if cookiecutter.redis %}
    trace: str | None = None
    # {% endif %}
    # {% if cookiecutter.rooms and cookiecutter.redis %}
    epoch: str = ""
    # {% endif %}
    # {% if cookiecutter.rooms %}
    offset: int = 0
    # {% endif %}
    event: Event | None = None
    # {% if cookiecutter.rooms %}
    frame: bytes | None = field(default=None, init=False)
    """The frame of a room's message, if it is encoded already."""
    # {% endif %}


Deliver = Callable[[Envelope], None]
# {% if cookiecutter.redis %}
OnGap = Callable[[], None]
# {% endif %}


@dataclass(slots=True, eq=False)
class Subscription:
    # {% if cookiecutter.redis %}
    """The subscription to one channel.

    ``on_gap``, if there is one, is called when envelopes may have been missed.
    """
    # {% else %}
    """The subscription to one channel."""
    # {% endif %}

    channel: Channel
    deliver: Deliver
    # {% if cookiecutter.redis %}
    on_gap: OnGap | None = None
    is_confirmed: bool = False
    # {% endif %}


class Backplane:
    """Carries envelopes to the processes that host a channel: at most once, in order per publisher.

    In memory, an envelope is delivered at once.
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
        """Deliver to every process that hosts the channel.

        The future yields the number of these processes once the message is sent, or fails with
        `Unavailable`. Messages are sent in the order of the calls: a caller may publish the next
        one without waiting.

        After a failure, the message may be published again with the same id; it is delivered only
        once. In memory the id is ignored, since a message that failed was not delivered.
        """
        subscription = self.hosted.get(channel)
        if subscription is not None:
            subscription.deliver(envelope)
        return done(int(subscription is not None))

    async def count_nodes(self, channel: Channel) -> int:
        """Return the number of processes that host the channel.

        Raises:
            Unavailable: it is not known now.
        """
        return int(channel in self.hosted)

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Host a channel. Returns the subscription; `confirm` waits until it is active."""
        self.hosted[subscription.channel] = subscription
        return subscription

    async def confirm(self, subscription: Subscription) -> None:
        """Wait until the subscription is active, and receives every later message.

        Raises:
            Unavailable: the confirmation does not come in time.
        """

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Stop hosting the channel; return False if another subscription has replaced this one."""
        if self.hosted.get(subscription.channel) is not subscription:
            return False
        del self.hosted[subscription.channel]
        return True
