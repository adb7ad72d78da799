"""`make chaos`: its ledger, client, schedule, processes and exit status."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import chain, cycle, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from app.realtime import Policy, RoomOptions
from app.realtime.backplane import Envelope
from app.realtime.errors import Unavailable
from app.realtime.rooms.history import History, Position
from app.realtime.rooms.rooms import Room, Rooms

from .chaos import __main__
from .chaos.client import Client, Frame, settle
from .chaos.faults import schedule
from .chaos.follower import Follower
from .chaos.ledger import Ledger, Membership, Totals
from .chaos.trial import ROOMS, Trial, first_failure
from .client import START_S, ConnectOptions
from .live import Live, make_settings, wait_until
from .processes import PROJECT, Failure, Node, engine_environment
from .relay import Relay

ROOM = "lobby"


class RecordedRoom:
    """A room in a ledger, with one member that joined at offset 0."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.member = self.join(0)

    def join(self, offset: int) -> Membership:
        """Add a member, and return it."""
        member = self.ledger.open(ROOM)
        self.join_answered(member, offset, recovered=None)
        return member

    def join_answered(
        self,
        member: Membership,
        offset: int,
        *,
        recovered: bool | None,
        replayed: int = 0,
        epoch: str = "e",
    ) -> None:
        """Answer a join of the member."""
        join_sent_at = self.ledger.tick()
        member.join_answered(
            Position(epoch, offset), join_sent_at, recovered=recovered, replayed=replayed
        )

    def publish(self, *offsets: int, excluded: Membership | None = None) -> list[int]:
        """Publish messages that are acknowledged with these offsets; return their numbers."""
        numbers = [self.ledger.send(ROOM, excluded) for _ in offsets]
        for number, offset in zip(numbers, offsets, strict=True):
            self.ledger.acknowledge(number, offset)
        return numbers

    def totals(self) -> Totals:
        """Return the totals of the ledger."""
        return self.ledger.totals()


@pytest.fixture
def room() -> RecordedRoom:
    return RecordedRoom()


def test_received_messages_are_counted(room: RecordedRoom) -> None:
    for offset, number in enumerate(room.publish(1, 2, 3), start=1):
        room.member.received(number, offset)
    room.join_answered(room.member, 3, recovered=True)
    assert room.totals() == Totals(sent=3, live=3)
    assert room.totals().is_correct


def test_replayed_messages_are_counted(room: RecordedRoom) -> None:
    first, second, third = room.publish(1, 2, 3)
    room.member.received(first, 1)
    room.member.disconnected()
    room.join_answered(room.member, 3, recovered=True, replayed=2)
    assert not room.member.is_complete
    room.member.received(second, 2)
    room.member.received(third, 3)
    assert room.member.is_complete
    assert room.totals() == Totals(sent=3, live=1, recovered=2)


def test_an_interrupted_replay_needs_another_join(room: RecordedRoom) -> None:
    first, second = room.publish(1, 2)
    room.join_answered(room.member, 2, recovered=True, replayed=2)
    room.member.received(first, 1)
    assert room.member.rejoined_at
    room.member.disconnected()
    assert not room.member.rejoined_at
    room.join_answered(room.member, 2, recovered=True, replayed=1)
    room.member.received(second, 2)
    assert room.totals() == Totals(sent=2, recovered=2)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_lost_message_is_counted(room: RecordedRoom, lost: int) -> None:
    for offset, number in enumerate(room.publish(1, 2, 3), start=1):
        if offset != lost:
            room.member.received(number, offset)
    room.join_answered(room.member, 3, recovered=True)
    assert room.totals() == Totals(sent=3, live=2, lost=1, out_of_order=1)
    assert not room.totals().is_correct


def test_a_message_missing_from_a_replay_is_counted(room: RecordedRoom) -> None:
    first, _, third = room.publish(1, 2, 3)
    room.join_answered(room.member, 3, recovered=True, replayed=2)
    room.member.received(first, 1)
    room.member.received(third, 3)
    assert room.totals() == Totals(sent=3, recovered=2, lost=1, out_of_order=2)


def test_a_reused_offset_does_not_hide_a_loss(room: RecordedRoom) -> None:
    _, second = room.publish(1, 1)
    room.member.received(second, 1)
    room.join_answered(room.member, 1, recovered=True)
    assert room.totals() == Totals(sent=2, live=1, lost=1)


@pytest.mark.parametrize("again_at", [1, 2])
def test_a_duplicate_is_counted(room: RecordedRoom, again_at: int) -> None:
    (number,) = room.publish(1)
    room.member.received(number, 1)
    room.member.received(number, again_at)
    assert room.totals().duplicated == 1
    assert not room.totals().is_correct


def test_a_replayed_duplicate_is_counted(room: RecordedRoom) -> None:
    (number,) = room.publish(1)
    room.member.received(number, 1)
    room.join_answered(room.member, 2, recovered=True, replayed=1)
    room.member.received(number, 2)
    assert room.totals().duplicated == 1


def test_messages_out_of_order_are_counted(room: RecordedRoom) -> None:
    first, second = room.publish(1, 2)
    room.member.received(second, 2)
    room.member.received(first, 1)
    assert room.totals() == Totals(sent=2, live=2, out_of_order=2)


def test_an_offset_other_than_the_acknowledged_one_is_counted(room: RecordedRoom) -> None:
    (number,) = room.publish(2)
    room.member.received(number, 1)
    assert room.totals() == Totals(sent=1, live=1, out_of_order=1)


def test_an_unacknowledged_message_is_delivered_at_most_once(room: RecordedRoom) -> None:
    come, _ = room.ledger.send(ROOM), room.ledger.send(ROOM)
    room.member.received(come, 1)
    assert room.totals() == Totals(unacknowledged=2)
    room.member.received(come, 2)
    assert room.totals() == Totals(unacknowledged=2, duplicated=1)


def test_only_members_are_owed_a_message(room: RecordedRoom) -> None:
    (number,) = room.publish(1)
    room.member.received(number, 1)
    room.join(1)
    room.ledger.open("another room")
    assert room.totals() == Totals(sent=1, live=1)


def test_a_message_in_an_announced_gap_is_not_lost(room: RecordedRoom) -> None:
    first, _, third = room.publish(1, 2, 3)
    room.member.received(first, 1)
    room.join_answered(room.member, 2, recovered=False)
    room.member.received(third, 3)
    room.join_answered(room.member, 3, recovered=True)
    assert room.totals() == Totals(sent=3, live=2, announced=1)


def test_a_gap_covers_only_its_offsets(room: RecordedRoom) -> None:
    first, _, _ = room.publish(1, 2, 3)
    room.member.received(first, 1)
    room.join_answered(room.member, 2, recovered=False)
    room.join_answered(room.member, 3, recovered=True)
    assert room.totals() == Totals(sent=3, live=1, announced=1, lost=1, out_of_order=1)


def test_a_new_epoch_covers_only_older_messages(room: RecordedRoom) -> None:
    room.publish(1)  # is lost, as the next one shows
    (second,) = room.publish(2)
    room.member.received(second, 2)
    room.publish(3)
    room.join_answered(room.member, 0, recovered=False, epoch="f")
    room.publish(1)  # is lost, too, as the next answer shows
    room.join_answered(room.member, 1, recovered=True, epoch="f")
    assert room.totals() == Totals(sent=4, live=1, announced=1, lost=2, out_of_order=2)


def test_an_older_message_does_not_widen_a_gap(room: RecordedRoom) -> None:
    older = room.ledger.send(ROOM)
    room.publish(1)  # is lost, as the answer to the join shows
    room.join_answered(room.member, 1, recovered=True)
    room.member.received(older, 2)
    room.join_answered(room.member, 0, recovered=False, epoch="f")
    assert room.totals() == Totals(sent=1, unacknowledged=1, lost=1, out_of_order=1)


def test_an_unannounced_epoch_covers_nothing(room: RecordedRoom) -> None:
    room.publish(1)
    room.join_answered(room.member, 0, recovered=True, epoch="f")
    assert room.totals() == Totals(sent=1, lost=1, out_of_order=1)


def test_offsets_are_ignored_between_resync_and_rejoin(room: RecordedRoom) -> None:
    (first,) = room.publish(5)
    room.member.resync()
    room.member.received(first, 5)
    assert not room.member.is_complete
    assert room.member.position == Position("e", 0)
    room.join_answered(room.member, 5, recovered=False, epoch="f")
    assert room.member.is_complete
    assert room.totals() == Totals(sent=1, live=1)


def test_messages_between_resync_and_rejoin_are_not_skipped(room: RecordedRoom) -> None:
    (first,) = room.publish(1)
    room.member.resync()
    room.member.received(first, 1)
    room.member.resync()
    room.join_answered(room.member, 1, recovered=True)
    assert room.totals() == Totals(sent=1, live=1)
    room.member.resync()
    room.publish(2)
    room.join_answered(room.member, 2, recovered=True)
    assert room.totals() == Totals(sent=2, live=1, lost=1, out_of_order=1)


def test_a_sender_without_echo_is_not_owed_its_message(room: RecordedRoom) -> None:
    room.publish(1, excluded=room.member)
    (second,) = room.publish(2)
    room.member.received(second, 2)
    room.publish(3, excluded=room.member)
    room.join_answered(room.member, 3, recovered=True)
    assert room.totals() == Totals(sent=3, live=1)


def test_a_skipped_own_message_does_not_hide_a_loss(room: RecordedRoom) -> None:
    room.publish(1)
    room.publish(2, excluded=room.member)
    (third,) = room.publish(3)
    room.member.received(third, 3)
    assert room.totals() == Totals(sent=3, live=1, lost=1, out_of_order=1)


def test_an_own_message_is_replayed_at_most_once(room: RecordedRoom) -> None:
    (number,) = room.publish(1, excluded=room.member)
    room.member.disconnected()
    room.join_answered(room.member, 1, recovered=True, replayed=1)
    room.member.received(number, 1)
    assert room.totals() == Totals(sent=1)
    room.member.received(number, 2)
    assert room.totals().duplicated == 1


def test_an_unacknowledged_own_message_may_be_skipped(room: RecordedRoom) -> None:
    room.ledger.send(ROOM, room.member)
    (second,) = room.publish(2)
    room.member.received(second, 2)
    assert room.totals() == Totals(sent=1, unacknowledged=1, live=1)


def repeat(room: RecordedRoom, *, excluded: Membership | None = None) -> int:
    """Publish a message with a key twice, without an acknowledgement; return its number."""
    number = room.ledger.send(ROOM, excluded, has_key=True)
    room.ledger.repeat(number)
    return number


def test_a_repeated_message_is_counted_once(room: RecordedRoom) -> None:
    number = repeat(room)
    room.member.received(number, 1)
    room.ledger.acknowledge(number, 1)
    assert room.totals() == Totals(sent=1, repeated=1, live=1)


@pytest.mark.parametrize("again_at", [1, 2])
def test_a_repetition_delivered_in_the_same_epoch_is_counted(
    room: RecordedRoom, again_at: int
) -> None:
    number = repeat(room)
    room.member.received(number, 1)
    room.member.received(number, again_at)
    assert room.totals().duplicated == 1


def test_a_repetition_delivered_to_others_is_counted(room: RecordedRoom) -> None:
    other, number = room.join(0), repeat(room)
    room.member.received(number, 1)
    room.member.disconnected()
    room.join_answered(room.member, 2, recovered=False)
    room.join_answered(other, 1, recovered=False)
    other.received(number, 2)
    assert room.totals() == Totals(unacknowledged=1, repeated=1, out_of_order=1)


def test_a_repeated_message_may_be_delivered_once_in_each_epoch(room: RecordedRoom) -> None:
    number = repeat(room)
    room.member.received(number, 1)
    room.join_answered(room.member, 0, recovered=False, epoch="f")
    room.member.received(number, 1)
    room.ledger.acknowledge(number, 1)
    assert room.totals() == Totals(sent=1, repeated=1, live=1)
    room.member.received(number, 2)
    assert room.totals().duplicated == 1


def test_a_message_without_a_key_is_delivered_in_one_epoch(room: RecordedRoom) -> None:
    (number,) = room.publish(1)
    room.member.received(number, 1)
    room.join_answered(room.member, 0, recovered=False, epoch="f")
    room.member.received(number, 1)
    assert room.totals().duplicated == 1


@pytest.mark.parametrize(("epoch", "duplicated"), [("e", 1), ("f", 0)])
def test_the_answer_to_a_join_shows_the_epoch_of_earlier_messages(
    room: RecordedRoom, epoch: str, duplicated: int
) -> None:
    number = repeat(room)
    room.member.received(number, 1)
    room.member.resync()
    room.member.received(number, 1)
    assert room.totals().duplicated == 0
    room.join_answered(room.member, 1, recovered=False, epoch=epoch)
    assert room.totals().duplicated == duplicated
    room.member.received(number, 2)
    assert room.totals().duplicated == duplicated + 1


@pytest.mark.parametrize("end", [Membership.disconnected, Membership.resync])
def test_a_repetition_in_an_unknown_epoch_is_no_duplicate(
    room: RecordedRoom, end: Callable[[Membership], None]
) -> None:
    number = repeat(room)
    room.member.resync()
    room.member.received(number, 1)
    end(room.member)
    room.join_answered(room.member, 1, recovered=False, epoch="f")
    room.member.received(number, 2)
    assert room.totals() == Totals(unacknowledged=1, repeated=1)


@pytest.mark.parametrize(("epoch", "out_of_order"), [("e", 1), ("f", 0)])
def test_a_repeated_message_may_be_acknowledged_in_an_epoch_that_all_miss(
    room: RecordedRoom, epoch: str, out_of_order: int
) -> None:
    number = repeat(room)
    room.member.received(number, 1)
    room.ledger.acknowledge(number, 2)
    room.join_answered(room.member, 2, recovered=False, epoch=epoch)
    assert room.totals() == Totals(sent=1, repeated=1, live=1, out_of_order=out_of_order)


def test_a_message_that_was_not_repeated_is_acknowledged_as_delivered(room: RecordedRoom) -> None:
    number = room.ledger.send(ROOM, has_key=True)
    room.member.received(number, 1)
    room.ledger.acknowledge(number, 2)
    room.join_answered(room.member, 2, recovered=False, epoch="f")
    assert room.totals() == Totals(sent=1, live=1, out_of_order=1)


@pytest.mark.parametrize(("epoch", "out_of_order"), [("e", 1), ("f", 0)])
def test_an_own_repeated_message_may_be_skipped_once_in_each_epoch(
    room: RecordedRoom, epoch: str, out_of_order: int
) -> None:
    own = repeat(room, excluded=room.member)
    (second,) = room.publish(2)
    room.member.received(second, 2)
    room.join_answered(room.member, 2, recovered=False, epoch=epoch)
    (fourth,) = room.publish(4)
    room.member.received(fourth, 4)
    room.ledger.acknowledge(own, 3)
    assert room.totals() == Totals(sent=3, repeated=1, live=2, out_of_order=out_of_order)


def test_an_ok_to_publish_does_not_move_the_position(room: RecordedRoom) -> None:
    older, _ = room.ledger.send(ROOM), room.publish(2, excluded=room.member)
    room.ledger.acknowledge(older, 1)
    assert room.member.position == Position("e", 0)


class FollowedRoom(RecordedRoom):
    """A room in a ledger, with a follower that has loaded the state."""

    def __init__(self) -> None:
        super().__init__()
        self.follower = Follower(make_settings(), "alice", Relay(int), ROOM, self.ledger)
        self.follower.load()


@pytest.fixture
def followed() -> FollowedRoom:
    return FollowedRoom()


@pytest.mark.parametrize(
    ("missing", "out_of_order"), [(None, 0), (0, 0), (1, 1), (2, 0)], ids=["none", "0", "1", "2"]
)
def test_a_follower_gets_every_offset_after_a_load(
    followed: FollowedRoom, missing: int | None, out_of_order: int
) -> None:
    for offset, number in enumerate(followed.publish(1, 2, 3), start=1):
        if number != missing:
            followed.follower.receive(number, offset)
    lost = int(missing is not None)
    expected = Totals(live=3 - lost, lost=lost, out_of_order=out_of_order, loads=1)
    assert followed.follower.totals() == expected
    assert followed.follower.is_complete == (not lost)


def test_a_loaded_state_has_what_was_sent_before(followed: FollowedRoom) -> None:
    first, _, _ = followed.publish(1, 2, 3)
    followed.follower.receive(first, 1)
    followed.follower.load()
    (fourth,) = followed.publish(4)
    followed.follower.receive(fourth, 4)
    assert followed.follower.totals() == Totals(live=2, announced=2, loads=2)


def test_a_follower_gets_only_a_repeated_message_twice_in_two_epochs(
    followed: FollowedRoom,
) -> None:
    once, (repeated,) = followed.publish(1), followed.publish(2)
    followed.ledger.repeat(repeated)
    for _ in range(2):
        followed.follower.load()
        for offset, number in enumerate((*once, repeated), start=1):
            followed.follower.receive(number, offset)
    assert followed.follower.totals().duplicated == 1
    followed.follower.receive(repeated, 3)
    assert followed.follower.totals().duplicated == 2


async def test_a_follower_returns_after_a_cut_and_an_eviction(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RoomOptions(history_messages=10_000)  # more than a client misses before it returns
    monkeypatch.setattr(Policy, "room_options", lambda policy, service, room: options)
    ledger = Ledger()
    follower = Follower(live.settings, "alice", Relay(lambda: live.port), ROOM, ledger)
    following = asyncio.create_task(follower.run())
    async with publishing_clients(live, ledger) as clients:
        await wait_until(lambda: following.done() or follower.totals().live > 5)
        follower.abort()
        sent = len(ledger.messages)
        await wait_until(lambda: following.done() or follower.totals().live > sent + 5)
        assert follower.totals().loads == 1
        await live.service.rooms.evict(ROOM, follower.user)
        await wait_until(lambda: following.done() or follower.totals().loads > 1)
        await settle(clients, ledger)
        await wait_until(lambda: following.done() or follower.is_complete)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert follower.totals().is_correct
    assert follower.totals().loads == 2


@contextlib.asynccontextmanager
async def publishing_clients(
    live: Live, ledger: Ledger, kind: type[Client] = Client
) -> AsyncIterator[list[Client]]:
    """Run two clients that publish in one room."""
    clients = [
        kind(partial(live.options, user), [ROOM], ledger, pause_s=0.02, seed=user)
        for user in ("alice", "bob")
    ]
    for client in clients:
        client.publishes = False
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(client.run()) for client in clients]
        await wait_until(lambda: all(client.has_rejoined_since(0) for client in clients))
        for client in clients:
            client.publishes = True
        yield clients
        for task in running:
            task.cancel()


@pytest.mark.parametrize("deliveries", [1, 0, 2], ids=["right", "lost", "twice"])
async def test_a_loss_or_duplicate_counts_once_for_each_member(
    live: Live, monkeypatch: pytest.MonkeyPatch, deliveries: int
) -> None:
    deliver = Rooms._deliver

    def deliver_or_not(rooms: Rooms, room: Room, envelope: Envelope) -> None:
        for _ in range(deliveries if envelope.data == 20 else 1):
            deliver(rooms, room, envelope)

    monkeypatch.setattr(Rooms, "_deliver", deliver_or_not)
    ledger = Ledger()
    async with publishing_clients(live, ledger) as clients:
        await wait_until(lambda: len(ledger.messages) > 40)
        await settle(clients, ledger)
    totals = ledger.totals()
    expected = [1 if message.excluded else 2 for message in ledger.messages]
    lost = expected[20] if deliveries == 0 else 0
    duplicated = expected[20] if deliveries == 2 else 0
    assert (totals.lost, totals.duplicated) == (lost, duplicated)
    assert totals.is_correct == (deliveries == 1)
    # A client that a slow machine cuts off gets some of them by its next join.
    assert totals.live + totals.recovered == sum(expected) - lost
    assert set(expected) == {1, 2}


@pytest.mark.parametrize("is_published", [False, True], ids=["refused", "lost answer"])
async def test_a_repetition_that_is_published_again_is_counted(
    live: Live, monkeypatch: pytest.MonkeyPatch, is_published: bool
) -> None:
    publish, failed = History.publish, list[int]()

    def publish_but_fail(
        history: History,
        room: str,
        envelope: Envelope,
        *,
        keep: bool = True,
        message_id: str | None = None,
    ) -> asyncio.Future[Position]:
        is_first = message_id is not None and not failed
        if is_first:
            failed.append(cast(int, envelope.data))
        if is_published or not is_first:
            position = publish(history, room, envelope, keep=keep)
        if is_first:
            raise Unavailable("the answer was lost")
        return position

    monkeypatch.setattr(History, "publish", publish_but_fail)
    ledger = Ledger()
    async with publishing_clients(live, ledger) as clients:
        await wait_until(lambda: any(message.is_repeated for message in ledger.messages))
        await settle(clients, ledger)
    totals = ledger.totals()
    assert totals.repeated == 1
    assert ledger.messages[failed[0]].acknowledged_at is not None
    members = 1 if ledger.messages[failed[0]].excluded else 2
    assert totals.duplicated == (members if is_published else 0)
    assert totals.is_correct == (not is_published)


class InterruptedClient(Client):
    """A client whose connection ends before the first answer to a `publish`."""

    is_interrupted = False

    def _handle_publish_reply(self, frame: Frame) -> None:
        if self.is_interrupted:
            super()._handle_publish_reply(frame)
        else:
            self.is_interrupted = True
            self.abort()


@pytest.mark.parametrize("then", ["alice", "bob"])
async def test_only_the_same_user_repeats_over_another_connection(live: Live, then: str) -> None:
    users = chain(["alice"], cycle([then]))

    async def next_options() -> ConnectOptions:
        return await live.options(next(users))

    ledger = Ledger()
    client = InterruptedClient(next_options, [ROOM], ledger, pause_s=0.02, seed="")
    client.publishes = False
    running = asyncio.create_task(client.run())
    await wait_until(lambda: client.has_rejoined_since(0))
    user = client.user
    await client.publish(ROOM, echo=True, has_key=True)
    await wait_until(lambda: client.is_interrupted and not client.is_connected)
    client.publishes = True
    await wait_until(lambda: len(ledger.messages) > 5)
    await settle([client], ledger)
    running.cancel()
    await asyncio.wait([running])
    is_same = client.user == user
    assert ledger.messages[0].is_repeated == is_same
    assert (ledger.messages[0].acknowledged_at is not None) == is_same
    assert ledger.totals().is_correct


async def test_aborted_clients_recover(live: Live) -> None:
    ledger = Ledger()
    async with publishing_clients(live, ledger) as clients:
        for _ in range(3):
            clients[0].abort()
            await wait_until(lambda: not clients[0].is_connected)
            await wait_until(lambda: clients[0].is_connected)
        await settle(clients, ledger)
    totals = ledger.totals()
    assert totals.is_correct
    assert totals.recovered > 0


class DefectiveClient(Client):
    """A client with a defect: the `ok` to its own `publish` moves its position."""

    def _handle_publish_reply(self, frame: Frame) -> None:
        super()._handle_publish_reply(frame)
        position = self.memberships[ROOM].position
        if position is not None and frame["type"] == "ok":
            self.memberships[ROOM].position = Position(position.epoch, frame["offset"])


@pytest.mark.parametrize(("kind", "lost"), [(Client, 0), (DefectiveClient, 1)])
async def test_a_position_moved_by_an_ok_to_publish_loses_messages(
    live: Live, monkeypatch: pytest.MonkeyPatch, kind: type[Client], lost: int
) -> None:
    """Messages are stored and acknowledged, but delivered only by replay."""
    deliver, is_late = Rooms._deliver, False

    def deliver_unless_late(rooms: Rooms, room: Room, envelope: Envelope) -> None:
        if not is_late:
            deliver(rooms, room, envelope)

    monkeypatch.setattr(Rooms, "_deliver", deliver_unless_late)
    ledger = Ledger()
    async with publishing_clients(live, ledger, kind) as clients:
        alice, bob = clients
        for client in clients:
            client.publishes = False
        await settle(clients, ledger)
        is_late = True
        await bob.publish(ROOM, echo=False)
        await wait_until(lambda: not bob.is_waiting)
        await alice.publish(ROOM, echo=False)
        await wait_until(lambda: not alice.is_waiting)
        tick = ledger.tick()
        for client in clients:
            client.abort()
        await wait_until(lambda: all(client.has_rejoined_since(tick) for client in clients))
        is_late = False
        await settle(clients, ledger)
    assert ledger.totals().lost == lost


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Return a trial without faults, which would last longer than any test."""
    monkeypatch.setattr(Trial, "_inject_faults", lambda trial: asyncio.sleep(600))
    return Trial(tmp_path, clients=2, seconds=60, seed=1)


def is_alive(pid: int) -> bool:
    """Return whether the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(trial: Trial) -> list[int]:
    """Return the ids of the trial's processes."""
    return [process.pid for process in trial.processes if process.pid is not None]


@contextlib.asynccontextmanager
async def running_trial(trial: Trial) -> AsyncIterator[asyncio.Task[None]]:
    """Run the trial until all clients are connected."""
    running = asyncio.create_task(trial.run(lambda progress: None))
    try:
        await wait_until(
            lambda: running.done() or all(each.is_connected for each in trial.clients),
            START_S * len(trial.processes),  # they start one after the other
        )
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_node_has_a_port_only_while_it_listens(tmp_path: Path) -> None:
    environment, _ = engine_environment()
    node = Node("node 1", tmp_path, environment)
    try:
        assert node.port == 0
        await node.start()
        assert node.port > 0
        await node.stop()
        assert node.port == 0
        # Log lines of the previous run do not count.
        await node.start()
        assert node.port > 0
    finally:
        node.kill()


@pytest.mark.slow
async def test_an_interrupted_trial_leaves_no_process(trial: Trial) -> None:
    async with running_trial(trial) as running:
        numbers = pids(trial)
        assert len(numbers) == 3
        trial.processes[1].freeze()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not any(map(is_alive, numbers))


@pytest.mark.slow
async def test_a_crashed_process_ends_the_trial(trial: Trial) -> None:
    async with running_trial(trial) as running:
        numbers = pids(trial)
        os.kill(numbers[1], signal.SIGKILL)
        with pytest.raises(Failure, match=r"^node 1: exited unexpectedly with status -9"):
            await running
    assert not any(map(is_alive, numbers))


async def test_a_permanent_refusal_ends_the_client(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "can_join", lambda *_: False)
    client = Client(live.options, [ROOM], Ledger(), pause_s=1, seed="")
    with pytest.raises(ExceptionGroup) as group:
        await asyncio.create_task(client.run())
    failure = first_failure(group.value)
    assert str(failure) == "the service refuses a command: forbidden: you may not join this room"


async def test_presence_that_differs_ends_the_trial(
    trial: Trial, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await live.connect("alice")
    await client.ask(type="join", room=ROOMS[0])
    key = live.settings.backend_key
    assert key is not None
    monkeypatch.setattr(trial, "_backend", {"Authorization": f"Bearer {key.get_secret_value()}"})
    monkeypatch.setattr(trial, "_nodes", [SimpleNamespace(name="node 1", port=live.port)])
    member = SimpleNamespace(user=client.user, rooms=ROOMS[:1])
    monkeypatch.setattr(trial, "_participants", [member])
    await trial._check_presence()
    monkeypatch.setattr("tests.realtime.chaos.trial.SETTLE_S", 0)
    monkeypatch.setattr(trial, "_participants", [])
    with pytest.raises(Failure) as failure:
        await trial._check_presence()
    found, expected = {client.user: 1}, dict[str, int]()
    assert str(failure.value) == f"node 1: chaos-1 has {found}, not {expected}"


def test_a_seed_determines_the_schedule() -> None:
    def faults(seed: str) -> list[object]:
        return list(schedule(["killed", "frozen"], 60, seed))

    assert faults("1 redis") == faults("1 redis") != faults("2 redis")


def test_faults_do_not_overlap_and_end_in_time() -> None:
    faults = list(schedule(["killed", "frozen"], 600, "1"))
    assert {fault.name for fault in faults} == {"killed", "frozen"}
    for fault, following in pairwise(faults):
        assert fault.begins_s + fault.lasts_s < following.begins_s
    assert faults[-1].begins_s + faults[-1].lasts_s <= 600


def run_chaos(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run chaos as `make chaos` does."""
    command = [sys.executable, "-m", "tests.realtime.chaos", *arguments]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=240)
        except BaseException:
            process.terminate()  # it ends its own processes
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.mark.slow
def test_a_short_trial_loses_no_message_silently() -> None:
    done = run_chaos("--seconds", "4", "--clients", "4", "--seed", "894")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 clients, 4 seconds, seed 894\n")
    figures = dict(re.findall(r"^([a-z ]*[a-z]) +([\d,]+)", done.stdout, re.MULTILINE))
    assert figures["redis killed"] == "1"
    assert figures["out of order"] == figures["duplicated"] == figures["silently lost"] == "0"
    assert figures["received live"] != "0"


@pytest.mark.parametrize("wrong", ["lost", "duplicated", "out_of_order"])
def test_a_broken_promise_sets_the_exit_status(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    async def run(options: Namespace) -> Totals:
        return Totals(sent=10, live=10)._replace(**{wrong: 1})

    monkeypatch.setattr(__main__, "run", run)
    monkeypatch.setattr(sys, "argv", ["chaos"])
    with pytest.raises(
        SystemExit, match=r"^error: messages were lost, duplicated or out of order$"
    ):
        __main__.main()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "x"], "argument --seconds: 'x' is not a whole number from 1 to 600"),
        (["--seconds", "601"], "argument --seconds: '601' is not a whole number from 1 to 600"),
        (["--clients", "1"], "argument --clients: '1' is not a whole number from 2 to 200"),
        (["--seed", "-1"], "argument --seed: "),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_are_reported_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        __main__.parse(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"chaos: error: {complaint}")
