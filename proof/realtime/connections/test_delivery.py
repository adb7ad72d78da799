"""Flushing of connections: batched, in slices, and fair between sources."""

import asyncio
from contextvars import ContextVar

import pytest
from structlog.testing import capture_logs

from app.realtime.connections import delivery as module
from app.realtime.connections.delivery import FEW_FRAMES, MAX_BYTES_WHILE_BEHIND, Delivery

from ..client import DEADLINE_S
from ..recipients import Note, Reader, enqueue_all

COUNT = 10

bound: ContextVar[str] = ContextVar("bound")


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush one recipient in each turn of the loop."""
    monkeypatch.setattr(module, "FLUSH_S", 0.0)


async def catch_up(delivery: Delivery) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await delivery.catch_up()


def test_it_goes_on_in_another_event_loop() -> None:
    """As in an application that tests start several times, each time in a loop of its own."""
    delivery, flushed = Delivery(), list[str]()

    async def enqueue(name: str) -> None:
        delivery.attach()
        delivery.enqueue(Note(name, flushed), [b""])

    async def enqueue_and_wait(name: str) -> None:
        await enqueue(name)
        await catch_up(delivery)

    ended = asyncio.new_event_loop()
    ended.run_until_complete(enqueue("lost"))
    ended.close()
    assert flushed == []
    asyncio.run(enqueue_and_wait("next"))
    assert "next" in flushed


async def test_frames_of_two_turns_are_flushed_together() -> None:
    delivery, flushed = Delivery(), list[str]()
    delivery.enqueue(Note("first", flushed), [b""])
    await asyncio.sleep(0)
    assert flushed == []
    delivery.enqueue(Note("second", flushed), [b""])
    await asyncio.sleep(0)
    assert flushed == ["first", "second"]


async def test_a_flush_has_the_context_of_the_process_and_not_of_a_sender() -> None:
    """So its log lines have the field ``worker``, and not the user of another connection."""
    seen: list[str] = []

    class Watch(Note):
        def flush(self) -> None:
            seen.append(bound.get())
            super().flush()

    delivery = Delivery()
    bound.set("process")
    delivery.attach()
    bound.set("alice")
    delivery.enqueue(Watch("watch", []), [b""])
    await catch_up(delivery)
    assert seen == ["process"]


@pytest.mark.usefixtures("one_by_one")
async def test_a_large_flush_yields_between_slices() -> None:
    delivery, flushed = Delivery(), list[str]()
    enqueue_all(delivery, [Note("large", flushed) for _ in range(COUNT)])
    between = [0]
    async with asyncio.timeout(DEADLINE_S):
        while len(flushed) < COUNT:
            await asyncio.sleep(0)
            if len(flushed) != between[-1]:
                between.append(len(flushed))
    assert between == list(range(COUNT + 1))


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("many", [False, True])
async def test_many_bytes_while_others_are_unwritten_are_a_congestion(*, many: bool) -> None:
    delivery, flushed = Delivery(), list[str]()
    group = [Note("group", flushed) for _ in range(COUNT)]
    frame = b"x" * (MAX_BYTES_WHILE_BEHIND // COUNT + 1 if many else 100)
    enqueue_all(delivery, group, frame)
    assert not delivery.is_congested  # nothing of an earlier turn is unwritten
    async with asyncio.timeout(DEADLINE_S):
        while not flushed:
            await asyncio.sleep(0)
    assert not delivery.is_congested
    enqueue_all(delivery, group, frame)
    assert delivery.is_congested is many
    await catch_up(delivery)
    assert not delivery.is_congested


@pytest.mark.usefixtures("one_by_one")
async def test_a_small_group_does_not_wait_for_a_large_one() -> None:
    delivery, flushed = Delivery(), list[str]()
    enqueue_all(delivery, [Note("large", flushed) for _ in range(COUNT)])
    async with asyncio.timeout(DEADLINE_S):
        while not flushed:
            await asyncio.sleep(0)
    enqueue_all(delivery, [Note("small", flushed)])
    await catch_up(delivery)
    assert flushed.index("small") <= 2
    assert flushed.count("large") == COUNT


async def test_a_few_frames_do_not_wait_for_many() -> None:
    delivery, flushed = Delivery(), list[str]()
    delivery.enqueue(Note("many", flushed), [b""] * (FEW_FRAMES + 1))
    delivery.enqueue(Note("few", flushed), [b""] * FEW_FRAMES)
    await catch_up(delivery)
    assert flushed == ["few", "many"]


@pytest.mark.usefixtures("one_by_one")
async def test_many_frames_do_not_wait_for_few_for_ever() -> None:
    delivery, flushed = Delivery(), list[str]()

    class Flood(Reader):
        def flush(self) -> None:
            self.outbox.clear()
            if "large" not in flushed:
                delivery.enqueue(self, [b""])

    delivery.enqueue(Flood(), [b""])
    enqueue_all(delivery, [Note("large", flushed), Note("large", flushed)])
    await catch_up(delivery)
    assert flushed == ["large", "large"]


@pytest.mark.usefixtures("one_by_one")
async def test_catching_up_waits_until_all_is_flushed() -> None:
    delivery, flushed = Delivery(), list[str]()
    await catch_up(delivery)
    enqueue_all(delivery, [Note("large", flushed) for _ in range(COUNT)])
    await catch_up(delivery)
    assert len(flushed) == COUNT
    delivery.enqueue(Note("late", flushed), [b""])
    await catch_up(delivery)
    assert flushed[-1] == "late"


async def test_a_failing_flush_does_not_stop_the_others() -> None:
    class Failing(Reader):
        def flush(self) -> None:
            raise OSError

    delivery, flushed = Delivery(), list[str]()
    with capture_logs() as lines:
        enqueue_all(delivery, [Failing(), Note("next", flushed)])
        await catch_up(delivery)
    assert flushed == ["next"]
    assert [line["event"] for line in lines] == ["flush failed"]


async def test_catching_up_does_not_wait_for_later_frames() -> None:
    delivery, flushed = Delivery(), list[str]()
    flooding = True

    class Flood(Reader):
        def flush(self) -> None:
            self.outbox.clear()
            if flooding:
                delivery.enqueue(self, [b""])

    delivery.enqueue(Flood(), [b""])
    enqueue_all(delivery, [Note("mine", flushed), Note("mine", flushed)])
    await catch_up(delivery)
    assert flushed == ["mine", "mine"]
    flooding = False
    await catch_up(delivery)


@pytest.mark.parametrize("flush_s", [0.0, DEADLINE_S])
async def test_each_recipient_is_flushed_once(
    monkeypatch: pytest.MonkeyPatch, flush_s: float
) -> None:
    monkeypatch.setattr(module, "FLUSH_S", flush_s)
    delivery, flushed = Delivery(), list[str]()
    for number in range(COUNT):
        note = Note(str(number), flushed)
        delivery.enqueue(note, [b"first"])
        delivery.enqueue(note, [b"second"])
    await catch_up(delivery)
    assert flushed == [str(number) for number in range(COUNT)]


async def test_delivery_is_full_until_the_next_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAMES_PER_TURN", 3)
    delivery, flushed = Delivery(), list[str]()
    enqueue_all(delivery, [Note("first", flushed), Note("second", flushed)])
    assert not delivery.is_full
    delivery.enqueue(Note("third", flushed), [b""])
    assert delivery.is_full
    await catch_up(delivery)
    assert not delivery.is_full
    assert delivery.enqueued == 3
