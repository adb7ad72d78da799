"""The history in a real Valkey: outages, a new server, invalid messages."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError

from app.realtime.backplane import Envelope
from app.realtime.errors import Unavailable
from app.realtime.redis.backplane import Resync
from app.realtime.redis.connections import RedisCommand
from app.realtime.redis.rooms import feed as feed_module
from app.realtime.redis.rooms.feed import RedisFeed, Stored
from app.realtime.redis.rooms.history import POSITION_S, UNUSED_S, RedisHistory
from app.realtime.rooms.history import Position

from ..client import DEADLINE_S
from ..live import make_settings, run_service, wait_until, wait_until_async
from ..rooms.history_contract import ROOM, Member, position_of, say
from .test_backplane import settings_for, two_nodes
from .test_node import run_node
from .test_room_contracts import run_history
from .valkey import Valkey

CHANNEL = "ws:0:{room:lobby}"
POSITION = "ws:{room:lobby}:position"


async def test_a_server_that_has_forgotten_the_scripts_is_told_them_again(
    shared_valkey: Valkey,
) -> None:
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        member = Member(history)
        begin = (await member.replay(None)).position
        for number in range(3):
            await redis.script_flush()
            futures = [
                history.publish(room, Envelope("alice", number)) for room in (ROOM, "b", "c")
            ]
            assert (await futures[0]).offset == begin.offset + number + 1
            await asyncio.gather(*futures)
        await redis.script_flush()
        assert len((await Member(history).replay(begin)).messages) == 3


async def test_a_forgotten_script_does_not_change_the_order(shared_valkey: Valkey) -> None:
    """Messages that wait together go out by several commands, not all of them by a script."""
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        member = Member(history)
        begin = (await member.replay(None)).position
        await redis.script_flush()
        envelopes = [Envelope("alice", number) for number in range(6)]
        futures = [
            history.publish(ROOM, envelopes[0]),
            history.publish(ROOM, envelopes[1], keep=False),
            history.publish(ROOM, envelopes[2], keep=False, message_id="ephemeral"),
            history.publish(ROOM, envelopes[3], message_id="kept"),
            history.publish(ROOM, envelopes[4], keep=False),
            history.publish(ROOM, envelopes[5]),
        ]
        offsets = [at.offset and at.offset - begin.offset for at in await asyncio.gather(*futures)]
        assert offsets == [1, 0, 0, 2, 0, 3]
        await wait_until(lambda: len(member.data) == 6)
        assert member.data == list(range(6))


@pytest.mark.parametrize("keep", [True, False])
async def test_messages_that_wait_together_share_a_command(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    async with run_history(shared_valkey) as history:
        client, sent = history.backplane.client, list[RedisCommand]()
        send = client.send

        async def note(commands: Sequence[RedisCommand]) -> list[Any]:
            sent.extend(each for each in commands if "alice" in str(each))
            return await send(commands)

        member = Member(history)
        await member.replay(None)
        monkeypatch.setattr(client, "send", note)
        envelopes = [Envelope("alice", number) for number in range(20)]
        await asyncio.gather(*(history.publish(ROOM, each, keep=keep) for each in envelopes))
        await wait_until(lambda: len(member.data) == 20)
        assert len(sent) == 1


async def test_a_client_without_a_position_needs_no_reading(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_history(shared_valkey) as history:
        Member(history)
        feed = history._feeds[ROOM]
        replay = await feed.replay(None)

        async def load(room: str, since: Position) -> Stored:
            raise AssertionError

        monkeypatch.setattr(history, "load", load)
        assert await feed.replay(None) == replay


async def test_a_client_that_rejoins_gets_a_last_message_that_was_lost(
    shared_valkey: Valkey,
) -> None:
    async with run_history(shared_valkey) as history, run_history(shared_valkey) as other:
        member = Member(history)
        feed = history._feeds[ROOM]
        begin = (await feed.replay(None)).position
        feed._subscription.deliver = lambda envelope: None  # it never comes
        await say(other, 1)
        replay = await feed.replay(begin)
        assert replay.recovered is True
        assert [envelope.data for envelope in replay.messages] == [1]
        assert member.data == [1]


async def test_a_client_that_knows_more_than_the_node_is_caught_up_with(
    shared_valkey: Valkey,
) -> None:
    """Its last messages have reached its earlier node, but not this one yet."""
    async with run_history(shared_valkey) as history, run_history(shared_valkey) as other:
        member = Member(history)
        feed = history._feeds[ROOM]
        begin = (await feed.replay(None)).position
        feed._subscription.deliver = lambda envelope: None  # these are late
        await say(other, 1, 2, 3)
        replay = await feed.replay(Position(begin.epoch, begin.offset + 2))
        assert replay.recovered is True
        assert replay.position.offset == begin.offset + 3
        assert [envelope.data for envelope in replay.messages] == [3]
        assert member.data == [1, 2, 3]


async def test_messages_in_transit_are_not_lost_when_a_client_rejoins(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "ARRIVAL_S", DEADLINE_S)
    async with (
        run_history(shared_valkey, history_messages=0) as history,
        run_history(shared_valkey, history_messages=0) as other,
    ):
        member = Member(history)
        feed = history._feeds[ROOM]
        begin = (await feed.replay(None)).position
        on_their_way: list[Envelope] = []
        feed._subscription.deliver = on_their_way.append
        await say(other, 1, 2, 3)
        await wait_until(lambda: len(on_their_way) == 3)
        load, answered = history.load, asyncio.Event()

        async def note_answer(*arguments: Any) -> Stored:
            stored = await load(*arguments)
            answered.set()
            return stored

        monkeypatch.setattr(history, "load", note_answer)
        returning = asyncio.create_task(feed.replay(begin))
        await answered.wait()
        for envelope in on_their_way:
            feed._take(envelope)
        assert (await returning).position == Position(begin.epoch, begin.offset + 3)
        assert member.data == [1, 2, 3]
        assert member.news == []


async def test_messages_that_arrive_while_the_history_is_read_fill_the_gap(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_history(shared_valkey, history_messages=0) as history:
        member = Member(history)
        feed = history._feeds[ROOM]
        await feed.replay(None)
        load = history.load

        async def load_late(*arguments: Any) -> Stored:
            await say(history, 1, 2, 3)
            await wait_until(lambda: len(feed._held or ()) == 3)
            return await load(*arguments)

        monkeypatch.setattr(history, "load", load_late)
        feed.fall_behind()
        await wait_until(lambda: member.data == [1, 2, 3])
        assert member.news == []


async def test_what_a_node_missed_it_reads_and_delivers_in_order(valkey: Valkey) -> None:
    async with (
        run_history(valkey) as history,
        run_history(valkey) as other,
        Redis.from_url(valkey.url) as redis,
    ):
        member = Member(history)
        await member.replay(None)
        await say(other, 1)
        await wait_until(lambda: member.data == [1])
        await redis.client_kill_filter(_type="pubsub")
        await say(other, 2, 3)
        await wait_until(lambda: member.data == [1, 2, 3])
        await wait_until(lambda: history.backplane.healthy)
        await say(other, 4)
        await wait_until(lambda: member.data == [1, 2, 3, 4])
        assert member.news == []


async def test_what_is_not_kept_any_more_is_announced(valkey: Valkey) -> None:
    async with (
        run_history(valkey, history_messages=2) as history,
        run_history(valkey, history_messages=2) as other,
        Redis.from_url(valkey.url) as redis,
    ):
        member = Member(history)
        since = (await member.replay(None)).position
        await redis.client_kill_filter(_type="pubsub")
        await say(other, 1, 2, 3)
        await wait_until(lambda: member.news == [Resync(room=ROOM)])
        await say(other, 4)
        await wait_until(lambda: 4 in member.data)
        assert member.data == [4]
        assert member.lost_before == [Position(since.epoch, since.offset + 3)]


async def test_an_emptied_server_begins_a_new_epoch(valkey: Valkey) -> None:
    async with run_history(valkey) as history, Redis.from_url(valkey.url) as redis:
        member = Member(history)
        await member.replay(None)
        await say(history, 1, 2)
        await wait_until(lambda: member.data == [1, 2])
        old = history._feeds[ROOM].position
        await redis.flushall()
        assert await say(history, 3) == [1]
        await wait_until(lambda: member.news == [Resync(room=ROOM)])
        assert await say(history, 4) == [2]
        await wait_until(lambda: member.data == [1, 2, 4])
        replay = await Member(history).replay(old)
        assert (replay.frames, replay.recovered) == ((), False)
        assert replay.position.epoch != old.epoch


async def test_a_server_that_was_restarted_with_old_data_begins_a_new_epoch(
    valkey: Valkey,
) -> None:
    async with run_history(valkey) as history, Redis.from_url(valkey.url) as redis:
        member = Member(history)
        await member.replay(None)
        await say(history, 1)
        await redis.save()
        await say(history, 2)
        await wait_until(lambda: member.data == [1, 2])
        old = history._feeds[ROOM].position
        valkey.kill()
        await wait_until(lambda: not history.backplane.healthy)
        with pytest.raises(Unavailable):
            await say(history, 0)
        await valkey.start()
        assert await redis.exists(POSITION)
        await wait_until(lambda: member.news == [Resync(room=ROOM)])
        assert await say(history, 3) == [1]
        await wait_until(lambda: member.data == [1, 2, 3])
        assert history._feeds[ROOM].position.epoch != old.epoch
        assert (await member.replay(old)).recovered is False


async def test_a_primary_that_was_a_replica_meanwhile_begins_a_new_epoch(valkey: Valkey) -> None:
    """It has lost the writes that the other primary lacked, although its process is the same."""
    async with run_history(valkey) as history, Redis.from_url(valkey.url) as redis:
        member = Member(history)
        await member.replay(None)
        await say(history, 1, 2)
        await wait_until(lambda: member.data == [1, 2])
        old = history._feeds[ROOM].position
        await redis.replicaof("127.0.0.1", "1")
        await redis.replicaof("NO", "ONE")
        assert await say(history, 3) == [1]
        await wait_until(lambda: member.news == [Resync(room=ROOM)])
        assert (await Member(history).replay(old)).recovered is False


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x04\x95",
        b'{"sender": null, "data": 1, "epoch": 7, "offset": 1}',
        b'{"sender": null, "data": null, "event": "joined"}',
        b'{"sender": null, "data": "false", "event": "left"}',
        b'{"sender": null, "data": "false", "epoch": "e", "offset": 1}',
        b'{"sender": null, "data": "false", "epoch": "EPOCH", "offset": 1000}',
        b'{"sender": null, "data": "false", "epoch": "EPOCH", "offset": 0}',
        b'{"sender": null, "data": "false", "epoch": "EPOCH", "offset": -1}',
    ],
)
async def test_false_messages_are_not_believed(shared_valkey: Valkey, payload: bytes) -> None:
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        member = Member(history)
        position = (await member.replay(None)).position
        await redis.publish(CHANNEL, payload.replace(b"EPOCH", position.epoch.encode()))
        await say(history, 1)
        await wait_until(lambda: member.data == [1])
        assert member.news == []


@pytest.mark.parametrize(
    "entry",
    [
        "{}",
        "\x80",
        '{"sender": null, "data": 1}',
        '{"sender": null, "data": 1, "epoch": "e", "offset": 1}',
    ],
)
async def test_false_history_is_not_believed(shared_valkey: Valkey, entry: str) -> None:
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        since = await position_of(history)
        await say(history, 1)
        await redis.lset("ws:{room:lobby}:messages", -1, "99999999999999 " + entry)
        replay = await Member(history).replay(since)
        assert (replay.frames, replay.recovered) == ((), False)


async def test_what_has_expired_takes_no_space(shared_valkey: Valkey) -> None:
    async with (
        run_node(shared_valkey) as (backplane, _),
        Redis.from_url(shared_valkey.url) as redis,
    ):
        await redis.flushall()
        history = RedisHistory(backplane, make_settings(history_bytes=3_000))
        large = Envelope(sender=None, data="x" * 1_000)
        for _ in range(2):
            await history.publish(ROOM, large)
        await redis.delete("ws:{room:lobby}:messages")  # as its expiry does
        since = await position_of(history)
        for _ in range(2):
            await history.publish(ROOM, large)
        assert len((await Member(history).replay(since)).messages) == 2


@pytest.mark.parametrize("keeps", [0, 100])
async def test_a_node_that_keeps_nothing_hides_no_loss_on_another(
    shared_valkey: Valkey, keeps: int
) -> None:
    """Two nodes have different settings by mistake; the client returns to either."""
    async with (
        run_history(shared_valkey, history_messages=100) as history,
        run_history(shared_valkey, history_messages=0) as other,
    ):
        member = Member(history)
        since = (await member.replay(None)).position
        await say(history, 1)
        await say(other, 2)
        await wait_until(lambda: member.data == [1, 2])
        returning = Member(history if keeps else other)
        replay = await returning.replay(since)
        assert (replay.position.offset, replay.recovered) == (since.offset + 2, False)
        replay = await returning.replay(replay.position)
        assert replay.recovered is True


async def test_a_closed_feed_is_forgotten(shared_valkey: Valkey) -> None:
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        member = Member(history)
        await member.replay(None)
        feed = history._feeds[ROOM]
        feed.fall_behind()
        member.close()
        assert not history._behind
        assert await feed.heal()

        async def is_unsubscribed() -> bool:
            return CHANNEL.encode() not in await redis.pubsub_channels()

        await wait_until_async(is_unsubscribed)


async def test_a_member_can_be_sure_in_a_new_epoch(valkey: Valkey) -> None:
    async with run_service(settings_for(valkey)) as live, Redis.from_url(valkey.url) as redis:
        await wait_until(lambda: live.service.backplane.healthy)
        for number in range(3):
            await live.post("/publish", {"data": number, "room": ROOM})
        member = await live.connect()
        assert (await member.ask(type="join", room=ROOM))["offset"] == 3
        await redis.flushall()
        await live.post("/publish", {"data": 3, "room": ROOM})
        assert await member.receive("resync") == {"type": "resync", "room": ROOM}
        epoch = (await member.ask(type="join", room=ROOM))["epoch"]
        ok = await member.ask(type="join", room=ROOM, since={"epoch": epoch, "offset": 1})
        assert (ok["recovered"], ok["offset"]) == (True, 1)


async def test_a_closed_room_leaves_nothing_for_good(shared_valkey: Valkey) -> None:
    async with (
        run_history(shared_valkey, history_s=0.1) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        await redis.flushall()
        await say(history, 1)
        assert await redis.ttl(POSITION) > 0

        async def is_expired() -> bool:
            return not await redis.exists("ws:{room:lobby}:messages")

        await wait_until_async(is_expired)


@pytest.mark.hostile(51)
async def test_the_position_of_an_unused_room_is_kept_for_a_short_time(
    shared_valkey: Valkey,
) -> None:
    async with (
        run_history(shared_valkey) as history,
        run_history(shared_valkey) as other,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        await redis.flushall()
        await position_of(history)
        assert 0 < await redis.ttl(POSITION) <= UNUSED_S
        await say(history, 1)
        assert await redis.ttl(POSITION) > POSITION_S
        await position_of(other)
        assert await redis.ttl(POSITION) > POSITION_S


@pytest.mark.parametrize(("messages", "kept_s"), [(0, UNUSED_S), (1, POSITION_S)])
async def test_the_position_of_a_room_with_members_does_not_expire(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, messages: int, kept_s: int
) -> None:
    monkeypatch.setattr("app.realtime.redis.rooms.history.RENEWALS", 100_000)
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        await redis.flushall()
        member = Member(history)
        await member.replay(None)
        await say(history, *range(messages))
        await redis.expire(POSITION, kept_s // 2)

        async def is_renewed() -> bool:
            return int(await redis.ttl(POSITION)) > kept_s // 2

        await wait_until_async(is_renewed)
        assert member.news == []


async def test_a_renewal_does_not_shorten_what_a_message_has_made_long(
    shared_valkey: Valkey,
) -> None:
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        await redis.flushall()
        Member(history)
        feed = history._feeds[ROOM]
        begin = (await feed.replay(None)).position
        await say(history, 1)
        feed.position = begin  # as long as the message is under way
        await history._renew([feed])
        assert await redis.ttl(POSITION) > POSITION_S


async def test_renewals_share_round_trips(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.redis.rooms.history.RENEWALS", 100_000)
    monkeypatch.setattr("app.realtime.redis.rooms.history.RENEWED_AT_ONCE", 4)
    slices: list[int] = []
    renew = RedisHistory._renew

    async def renew_and_count(history: RedisHistory, feeds: Sequence[RedisFeed]) -> None:
        slices.append(len(feeds))
        await renew(history, feeds)

    monkeypatch.setattr(RedisHistory, "_renew", renew_and_count)
    async with run_history(shared_valkey) as history:
        rooms = [f"room-{number}" for number in range(10)]
        for room in rooms:
            history.open(room, lambda _: None, lambda *_: None)
        await asyncio.gather(*(history.replay(room, None) for room in rooms))
        await wait_until(lambda: sum(slices) >= 2 * len(rooms))
        assert max(slices) == 4


async def test_a_position_that_is_lost_is_announced(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.redis.rooms.history.RENEWALS", 100_000)
    async with (
        run_history(shared_valkey) as history,
        Redis.from_url(shared_valkey.url) as redis,
    ):
        member = Member(history)
        await member.replay(None)
        await redis.delete(POSITION)
        await wait_until(lambda: member.news == [Resync(room=ROOM)])
        assert await redis.exists(POSITION)


async def test_a_member_that_missed_nothing_is_not_told_of_an_outage(
    valkey: Valkey,
) -> None:
    async with two_nodes(valkey) as (first, second):
        here, there = await first.connect("alice"), await second.connect("bob")
        for client in (here, there):
            assert (await client.ask(type="join", room=ROOM))["offset"] == 0
        async with Redis.from_url(valkey.url) as redis:
            await redis.client_kill_filter(_type="pubsub")
        answer = await here.ask(type="publish", room=ROOM, data=1)
        assert answer["offset"] == 1
        assert (await there.receive("message"))["data"] == 1
        assert await there.receive("resync") == {"type": "resync", "room": None}
        epoch = (await there.ask(type="join", room=ROOM))["epoch"]
        again = await there.ask(type="join", room=ROOM, since={"epoch": epoch, "offset": 0})
        assert (again["recovered"], again["replayed"], again["offset"]) == (True, 0, 1)


async def test_history_that_redis_does_not_remove_is_removed_later(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    evictions = [(room, Position("epoch", 1)) for room in ("removed", "refused", "malformed")]
    replies = [1, ResponseError("MISCONF"), ResponseError("WRONGTYPE of a key")]
    async with run_history(shared_valkey) as history:
        monkeypatch.setattr(history._client, "send_in_background", AsyncMock(return_value=replies))
        assert await history._evict(evictions) == evictions[1:2]
        monkeypatch.setattr(history._client, "send_in_background", AsyncMock(side_effect=OSError))
        assert await history._evict(evictions) == evictions


async def test_a_lost_connection_among_the_replies_is_a_failure(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of a cluster returns it there; a single server's raises it."""
    async with run_history(shared_valkey) as history:
        for reply, raised in (ResponseError(), False), (ConnectionLost(), True):
            monkeypatch.setattr(history._client, "send", AsyncMock(return_value=[1, reply]))
            with pytest.raises(ConnectionLost) if raised else nullcontext():
                assert await history._client.send_in_background([]) == [1, reply]
