"""The contract of every backplane; each implementation's test module inherits it."""

import asyncio
from functools import partial

from app.realtime.backplane import Backplane, Envelope, Subscription, user_channel

from .client import DEADLINE_S
from .live import wait_until_async

CHANNEL = user_channel("a")


class Inbox:
    """Collects the envelopes delivered to one subscription."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Envelope] = asyncio.Queue()

    def deliver(self, envelope: Envelope) -> None:
        """Add an envelope."""
        self._queue.put_nowait(envelope)

    async def next(self) -> Envelope:
        """Return the next envelope."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._queue.get()

    def is_empty(self) -> bool:
        """Return whether every envelope has been read."""
        return self._queue.empty()


def numbered(number: int) -> Envelope:
    """Return an envelope with a number."""
    return Envelope(sender="alice", data=number)


class BackplaneContract:
    """The fixtures ``backplane`` and ``other`` are two nodes with shared channels, or one node."""

    async def test_messages_are_delivered_once(self, backplane: Backplane) -> None:
        inbox = Inbox()
        await backplane.confirm(backplane.subscribe(Subscription(CHANNEL, inbox.deliver)))
        envelope = Envelope(sender="alice", data={"n": [1, "ü"]}, exclude="someone")
        for published in (envelope, numbered(2)):
            assert await backplane.publish(CHANNEL, published) == 1
        assert await inbox.next() == envelope
        assert await inbox.next() == numbered(2)
        assert inbox.is_empty()

    async def test_messages_are_delivered_only_to_their_channel(self, backplane: Backplane) -> None:
        inbox, neighbour = Inbox(), Inbox()
        await backplane.confirm(backplane.subscribe(Subscription(CHANNEL, inbox.deliver)))
        await backplane.confirm(
            backplane.subscribe(Subscription(user_channel("b"), neighbour.deliver))
        )
        await backplane.publish(CHANNEL, numbered(1))
        assert await inbox.next() == numbered(1)
        assert neighbour.is_empty()

    async def test_order_is_kept(self, backplane: Backplane, other: Backplane) -> None:
        inbox = Inbox()
        await backplane.confirm(backplane.subscribe(Subscription(CHANNEL, inbox.deliver)))
        await asyncio.gather(*(other.publish(CHANNEL, numbered(number)) for number in range(200)))
        received = [(await inbox.next()).data for _ in range(200)]
        assert received == list(range(200))

    async def test_nothing_is_delivered_after_unsubscribe(self, backplane: Backplane) -> None:
        inbox, marker = Inbox(), Inbox()
        subscription = backplane.subscribe(Subscription(CHANNEL, inbox.deliver))
        await backplane.confirm(subscription)
        backplane.unsubscribe(subscription)
        await backplane.confirm(
            backplane.subscribe(Subscription(user_channel("marker"), marker.deliver))
        )
        await backplane.publish(CHANNEL, numbered(1))
        await backplane.publish(user_channel("marker"), numbered(2))
        assert await marker.next() == numbered(2)
        assert inbox.is_empty()

    async def test_a_new_subscription_replaces_an_old_one(self, backplane: Backplane) -> None:
        old, new = Inbox(), Inbox()
        first = backplane.subscribe(Subscription(CHANNEL, old.deliver))
        backplane.unsubscribe(first)
        second = backplane.subscribe(Subscription(CHANNEL, new.deliver))
        backplane.unsubscribe(first)
        await backplane.confirm(second)
        await backplane.publish(CHANNEL, numbered(1))
        assert await new.next() == numbered(1)
        assert old.is_empty()

    async def test_a_channel_can_be_subscribed_again_at_once(self, backplane: Backplane) -> None:
        old, new = Inbox(), Inbox()
        first = backplane.subscribe(Subscription(CHANNEL, old.deliver))
        await backplane.confirm(first)
        backplane.unsubscribe(first)
        await backplane.confirm(backplane.subscribe(Subscription(CHANNEL, new.deliver)))
        await backplane.publish(CHANNEL, numbered(1))
        assert await new.next() == numbered(1)
        assert old.is_empty()

    async def test_publishing_without_subscribers_succeeds(self, backplane: Backplane) -> None:
        assert await backplane.publish(user_channel("nobody"), numbered(1)) == 0

    async def test_the_nodes_of_a_channel_are_counted(
        self, backplane: Backplane, other: Backplane
    ) -> None:
        nodes = {backplane, other}
        channel = user_channel("counted")

        async def are_counted(expected: int) -> bool:
            counted = [await node.count_nodes(channel) for node in nodes]
            reached = await asyncio.gather(*(node.publish(channel, numbered(1)) for node in nodes))
            return {*counted, *reached} == {expected}

        assert await are_counted(0)
        subscriptions = []
        for node in nodes:
            subscriptions.append(node.subscribe(Subscription(channel, Inbox().deliver)))
            await node.confirm(subscriptions[-1])
            assert await are_counted(len(subscriptions))
        for left, node in enumerate(nodes, 1):
            node.unsubscribe(subscriptions.pop(0))
            await wait_until_async(partial(are_counted, len(nodes) - left))

    async def test_a_channel_that_was_left_is_not_counted(self, backplane: Backplane) -> None:
        for _ in range(20):
            subscription = backplane.subscribe(Subscription(CHANNEL, Inbox().deliver))
            await backplane.confirm(subscription)
            assert await backplane.count_nodes(CHANNEL) == 1
            backplane.unsubscribe(subscription)
            assert await backplane.count_nodes(CHANNEL) == 0

    async def test_a_channel_that_was_left_twice_is_not_counted(self, backplane: Backplane) -> None:
        subscription = backplane.subscribe(Subscription(CHANNEL, Inbox().deliver))
        await backplane.confirm(subscription)
        backplane.unsubscribe(subscription)
        counting = [asyncio.create_task(backplane.count_nodes(CHANNEL)) for _ in range(2)]
        await asyncio.sleep(0)
        backplane.unsubscribe(backplane.subscribe(Subscription(CHANNEL, Inbox().deliver)))
        assert await asyncio.gather(*counting) == [0, 0]

    async def test_it_is_healthy(self, backplane: Backplane) -> None:
        assert backplane.healthy
