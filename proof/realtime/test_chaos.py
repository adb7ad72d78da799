"""`make chaos` counts right, says so when a promise is broken, and leaves nothing behind."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.realtime import Policy
from app.realtime.rooms.history import Position, RoomEnvelope
from app.realtime.rooms.rooms import Room

from .chaos import __main__
from .chaos.client import Client, come_to_rest
from .chaos.faults import schedule
from .chaos.ledger import Ledger, Membership, Totals
from .chaos.trial import Trial, first_failure
from .client import START_S
from .live import Live, wait_until
from .processes import PROJECT, Failure, Node, engine_environment

ROOM = "lobby"


class Books:
    """A room with one member, which has joined at offset 0, and some messages."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.member = self.join(0)

    def join(self, offset: int) -> Membership:
        """Return one more member."""
        member = self.ledger.open(ROOM)
        self.enter(member, offset, recovered=None)
        return member

    def enter(
        self,
        member: Membership,
        offset: int,
        *,
        recovered: bool | None,
        replayed: int = 0,
        epoch: str = "e",
    ) -> None:
        """Have a join answered."""
        asked_at = self.ledger.tick()
        member.enter(Position(epoch, offset), asked_at, recovered=recovered, replayed=replayed)

    def say(self, *offsets: int, spared: Membership | None = None) -> list[int]:
        """Have messages published and acknowledged with these offsets; return their numbers."""
        numbers = [self.ledger.send(ROOM, spared) for _ in offsets]
        for number, offset in zip(numbers, offsets, strict=True):
            self.ledger.acknowledge(number, offset)
        return numbers

    def totals(self) -> Totals:
        """Return what it all adds up to."""
        return self.ledger.totals()


@pytest.fixture
def books() -> Books:
    return Books()


def test_what_is_received_is_counted(books: Books) -> None:
    for offset, number in enumerate(books.say(1, 2, 3), start=1):
        books.member.take(number, offset)
    books.enter(books.member, 3, recovered=True)
    assert books.totals() == Totals(sent=3, live=3)
    assert books.totals().is_right


def test_what_is_replayed_is_counted(books: Books) -> None:
    first, second, third = books.say(1, 2, 3)
    books.member.take(first, 1)
    books.member.leave()
    books.enter(books.member, 3, recovered=True, replayed=2)
    assert not books.member.is_complete
    books.member.take(second, 2)
    books.member.take(third, 3)
    assert books.member.is_complete
    assert books.totals() == Totals(sent=3, live=1, recovered=2)


def test_a_replay_that_is_cut_short_has_to_be_asked_for_again(books: Books) -> None:
    first, second = books.say(1, 2)
    books.enter(books.member, 2, recovered=True, replayed=2)
    books.member.take(first, 1)
    assert books.member.checked_at
    books.member.leave()
    assert not books.member.checked_at
    books.enter(books.member, 2, recovered=True, replayed=1)
    books.member.take(second, 2)
    assert books.totals() == Totals(sent=2, recovered=2)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_message_that_is_lost_is_counted(books: Books, lost: int) -> None:
    for offset, number in enumerate(books.say(1, 2, 3), start=1):
        if offset != lost:
            books.member.take(number, offset)
    books.enter(books.member, 3, recovered=True)
    assert books.totals() == Totals(sent=3, live=2, lost=1, misplaced=1)
    assert not books.totals().is_right


def test_a_replay_that_leaves_one_out_is_counted(books: Books) -> None:
    first, _, third = books.say(1, 2, 3)
    books.enter(books.member, 3, recovered=True, replayed=2)
    books.member.take(first, 1)
    books.member.take(third, 3)
    assert books.totals() == Totals(sent=3, recovered=2, lost=1, misplaced=2)


def test_a_message_under_another_s_offset_does_not_hide_its_loss(books: Books) -> None:
    _, second = books.say(1, 1)
    books.member.take(second, 1)
    books.enter(books.member, 1, recovered=True)
    assert books.totals() == Totals(sent=2, live=1, lost=1)


@pytest.mark.parametrize("again_at", [1, 2])
def test_a_message_that_comes_twice_is_counted(books: Books, again_at: int) -> None:
    (number,) = books.say(1)
    books.member.take(number, 1)
    books.member.take(number, again_at)
    assert books.totals().doubled == 1
    assert not books.totals().is_right


def test_a_message_that_is_live_and_replayed_is_counted(books: Books) -> None:
    (number,) = books.say(1)
    books.member.take(number, 1)
    books.enter(books.member, 2, recovered=True, replayed=1)
    books.member.take(number, 2)
    assert books.totals().doubled == 1


def test_messages_out_of_order_are_counted(books: Books) -> None:
    first, second = books.say(1, 2)
    books.member.take(second, 2)
    books.member.take(first, 1)
    assert books.totals() == Totals(sent=2, live=2, misplaced=2)


def test_an_offset_that_is_not_the_acknowledged_one_is_counted(books: Books) -> None:
    (number,) = books.say(2)
    books.member.take(number, 1)
    assert books.totals() == Totals(sent=1, live=1, misplaced=1)


def test_what_was_not_acknowledged_may_come_or_not_but_once(books: Books) -> None:
    come, _ = books.ledger.send(ROOM), books.ledger.send(ROOM)
    books.member.take(come, 1)
    assert books.totals() == Totals(unsure=2)
    books.member.take(come, 2)
    assert books.totals() == Totals(unsure=2, doubled=1)


def test_only_who_was_there_has_to_get_a_message(books: Books) -> None:
    (number,) = books.say(1)
    books.member.take(number, 1)
    books.join(1)
    books.ledger.open("another room")
    assert books.totals() == Totals(sent=1, live=1)


def test_what_is_announced_is_not_lost(books: Books) -> None:
    first, _, third = books.say(1, 2, 3)
    books.member.take(first, 1)
    books.enter(books.member, 2, recovered=False)
    books.member.take(third, 3)
    books.enter(books.member, 3, recovered=True)
    assert books.totals() == Totals(sent=3, live=2, announced=1)


def test_in_an_epoch_a_gap_excuses_only_what_is_in_it(books: Books) -> None:
    first, _, _ = books.say(1, 2, 3)
    books.member.take(first, 1)
    books.enter(books.member, 2, recovered=False)
    books.enter(books.member, 3, recovered=True)
    assert books.totals() == Totals(sent=3, live=1, announced=1, lost=1, misplaced=1)


def test_a_new_epoch_excuses_only_what_can_be_older(books: Books) -> None:
    books.say(1)  # is lost, as the next one shows
    (second,) = books.say(2)
    books.member.take(second, 2)
    books.say(3)
    books.enter(books.member, 0, recovered=False, epoch="f")
    books.say(1)  # is lost, too, as the next answer shows
    books.enter(books.member, 1, recovered=True, epoch="f")
    assert books.totals() == Totals(sent=4, live=1, announced=1, lost=2, misplaced=2)


def test_without_a_word_a_new_epoch_excuses_nothing(books: Books) -> None:
    books.say(1)
    books.enter(books.member, 0, recovered=True, epoch="f")
    assert books.totals() == Totals(sent=1, lost=1, misplaced=1)


def test_offsets_mean_nothing_between_a_resync_and_the_answer_to_a_join(books: Books) -> None:
    (first,) = books.say(5)
    books.member.doubt()
    books.member.take(first, 5)
    assert not books.member.is_complete
    assert books.member.position == Position("e", 0)
    books.enter(books.member, 5, recovered=False, epoch="f")
    assert books.member.is_complete
    assert books.totals() == Totals(sent=1, live=1)


def test_a_sender_without_echo_has_not_lost_its_own_message(books: Books) -> None:
    books.say(1, spared=books.member)
    (second,) = books.say(2)
    books.member.take(second, 2)
    books.say(3, spared=books.member)
    books.enter(books.member, 3, recovered=True)
    assert books.totals() == Totals(sent=3, live=1)


def test_what_others_send_is_lost_though_an_own_message_was_skipped(books: Books) -> None:
    books.say(1)
    books.say(2, spared=books.member)
    (third,) = books.say(3)
    books.member.take(third, 3)
    assert books.totals() == Totals(sent=3, live=1, lost=1, misplaced=1)


def test_an_own_message_may_be_replayed_but_once(books: Books) -> None:
    (number,) = books.say(1, spared=books.member)
    books.member.leave()
    books.enter(books.member, 1, recovered=True, replayed=1)
    books.member.take(number, 1)
    assert books.totals() == Totals(sent=1)
    books.member.take(number, 2)
    assert books.totals().doubled == 1


def test_an_own_message_that_was_not_acknowledged_may_have_been_skipped(books: Books) -> None:
    books.ledger.send(ROOM, books.member)
    (second,) = books.say(2)
    books.member.take(second, 2)
    assert books.totals() == Totals(sent=1, unsure=1, live=1)


def test_the_answer_to_a_publication_does_not_move_the_position(books: Books) -> None:
    older, _ = books.ledger.send(ROOM), books.say(2, spared=books.member)
    books.ledger.acknowledge(older, 1)
    assert books.member.position == Position("e", 0)


@contextlib.asynccontextmanager
async def crowd(
    live: Live, ledger: Ledger, kind: type[Client] = Client
) -> AsyncIterator[list[Client]]:
    """Have clients in one room, each of whom talks all the time."""
    clients = [
        kind(partial(live.options, user), [ROOM], ledger, pause_s=0.02, seed=user)
        for user in ("alice", "bob")
    ]
    for client in clients:
        client.talks = False
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(client.run()) for client in clients]
        await wait_until(lambda: all(client.has_checked_since(0) for client in clients))
        for client in clients:
            client.talks = True
        yield clients
        for task in running:
            task.cancel()


@pytest.mark.parametrize("deliveries", [1, 0, 2], ids=["right", "lost", "twice"])
async def test_one_message_that_a_service_loses_or_doubles_is_counted_for_each_member(
    live: Live, monkeypatch: pytest.MonkeyPatch, deliveries: int
) -> None:
    deliver = Room._deliver

    def deliver_or_not(room: Room, envelope: RoomEnvelope) -> None:
        for _ in range(deliveries if envelope.data == 20 else 1):
            deliver(room, envelope)

    monkeypatch.setattr(Room, "_deliver", deliver_or_not)
    ledger = Ledger()
    async with crowd(live, ledger) as clients:
        await wait_until(lambda: len(ledger.messages) > 40)
        await come_to_rest(clients, ledger)
    totals = ledger.totals()
    members = [1 if message.spared else 2 for message in ledger.messages]  # which have to get it
    lost = members[20] if deliveries == 0 else 0
    doubled = members[20] if deliveries == 2 else 0
    assert (totals.lost, totals.doubled) == (lost, doubled)
    assert totals.is_right == (deliveries == 1)
    assert totals.live == sum(members) - lost
    assert set(members) == {1, 2}


async def test_clients_that_are_cut_off_recover(live: Live) -> None:
    ledger = Ledger()
    async with crowd(live, ledger) as clients:
        for _ in range(3):
            clients[0].cut_off()
            await wait_until(lambda: not clients[0].is_connected)
            await wait_until(lambda: clients[0].is_connected)
        await come_to_rest(clients, ledger)
    totals = ledger.totals()
    assert totals.is_right
    assert totals.recovered > 0


class HastyClient(Client):
    """A client with a defect: the `ok` to its own publication moves its position."""

    def _take_answer_to_publish(self, frame: dict[str, Any]) -> None:
        super()._take_answer_to_publish(frame)
        position = self.memberships[ROOM].position
        if position is not None and frame["type"] == "ok":
            self.memberships[ROOM].position = Position(position.epoch, frame["offset"])


@pytest.mark.parametrize(("kind", "lost"), [(Client, 0), (HastyClient, 1)])
async def test_a_position_that_is_moved_by_an_ok_loses_what_the_ok_has_overtaken(
    live: Live, monkeypatch: pytest.MonkeyPatch, kind: type[Client], lost: int
) -> None:
    """What is said is kept and acknowledged, but reaches the members only when they return."""
    deliver, is_late = Room._deliver, False

    def deliver_unless_late(room: Room, envelope: RoomEnvelope) -> None:
        if not is_late:
            deliver(room, envelope)

    monkeypatch.setattr(Room, "_deliver", deliver_unless_late)
    ledger = Ledger()
    async with crowd(live, ledger, kind) as clients:
        alice, bob = clients
        for client in clients:
            client.talks = False
        await come_to_rest(clients, ledger)
        is_late = True
        await bob.publish(ROOM, echo=False)
        await wait_until(lambda: not bob.waits)
        await alice.publish(ROOM, echo=False)
        await wait_until(lambda: not alice.waits)
        tick = ledger.tick()
        for client in clients:
            client.cut_off()
        await wait_until(lambda: all(client.has_checked_since(tick) for client in clients))
        is_late = False
        await come_to_rest(clients, ledger)
    assert ledger.totals().lost == lost


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """Return a trial that would last longer than a test may."""
    return Trial(tmp_path, clients=2, seconds=60, seed=1)


def is_alive(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(trial: Trial) -> list[int]:
    """Return the numbers of the trial's processes."""
    return [process.pid for process in trial.processes if process.pid is not None]


@contextlib.asynccontextmanager
async def under_way(trial: Trial) -> AsyncIterator[asyncio.Task[None]]:
    """Have the trial run until everybody is connected."""
    running = asyncio.create_task(trial.run(lambda progress: None))
    try:
        await wait_until(
            lambda: running.done() or all(each.is_connected for each in trial.clients),
            START_S * len(trial.processes),  # which start one after the other
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
async def test_a_trial_that_is_interrupted_leaves_no_process(trial: Trial) -> None:
    async with under_way(trial) as running:
        numbers = pids(trial)
        assert len(numbers) == 3
        trial.processes[1].freeze()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not any(map(is_alive, numbers))


@pytest.mark.slow
async def test_a_process_that_ends_by_itself_ends_the_trial(trial: Trial) -> None:
    async with under_way(trial) as running:
        numbers = pids(trial)
        os.kill(numbers[1], signal.SIGKILL)
        with pytest.raises(Failure, match=r"^node 1: has ended by itself, with status -9"):
            await running
    assert not any(map(is_alive, numbers))


async def test_a_refusal_that_no_retry_helps_ends_it(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "can_join", lambda *_: False)
    client = Client(live.options, [ROOM], Ledger(), pause_s=1, seed="")
    with pytest.raises(ExceptionGroup) as group:
        await asyncio.create_task(client.run())
    failure = first_failure(group.value)
    assert str(failure) == "the service refuses a command: forbidden: you may not join this room"


def test_the_same_seed_does_the_same_again() -> None:
    def faults(seed: str) -> list[object]:
        return list(schedule(["killed", "frozen"], 60, seed))

    assert faults("1 redis") == faults("1 redis") != faults("2 redis")


def test_faults_follow_each_other_and_end_in_time() -> None:
    faults = list(schedule(["killed", "frozen"], 600, "1"))
    assert {fault.deed for fault in faults} == {"killed", "frozen"}
    for fault, following in pairwise(faults):
        assert fault.begins_s + fault.lasts_s < following.begins_s
    assert faults[-1].begins_s + faults[-1].lasts_s <= 600


def run_chaos(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run it as `make chaos` does."""
    return subprocess.run(
        [sys.executable, "-m", "tests.realtime.chaos", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_a_short_run_for_real() -> None:
    done = run_chaos("--seconds", "4", "--clients", "4", "--seed", "894")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 clients, 4 seconds, seed 894\n")
    figures = dict(re.findall(r"^([a-z ]*[a-z]) +([\d,]+)", done.stdout, re.MULTILINE))
    assert figures["redis killed"] == "1"
    assert figures["misplaced"] == figures["duplicated"] == figures["silently lost"] == "0"
    assert figures["received live"] != "0"


@pytest.mark.parametrize("wrong", ["lost", "doubled", "misplaced"])
def test_a_broken_promise_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    async def run(options: Namespace) -> Totals:
        return Totals(sent=10, live=10)._replace(**{wrong: 1})

    monkeypatch.setattr(__main__, "run", run)
    monkeypatch.setattr(sys, "argv", ["chaos"])
    with pytest.raises(SystemExit, match=r"^error: the service has broken its promise$"):
        __main__.main()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "x"], "argument --seconds: 'x' is no whole number from 1 to 600"),
        (["--seconds", "601"], "argument --seconds: '601' is no whole number from 1 to 600"),
        (["--clients", "1"], "argument --clients: '1' is no whole number from 2 to 200"),
        (["--seed", "-1"], "argument --seed: "),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        __main__.parse(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"chaos: error: {complaint}")
