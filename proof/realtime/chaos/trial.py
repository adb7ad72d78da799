"""The trial: clients on two nodes with one Valkey, under fault injection."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import product
from pathlib import Path
from time import monotonic

import httpx

from ..client import START_S, ConnectOptions, connect_options
from ..processes import POLL_S, Failure, Node, engine_environment
from ..redis.proxy import Proxy
from ..redis.servers import SocketServer
from ..relay import Relay
from .client import SETTLE_S, Client, settle, wait_until_settled
from .faults import (
    Faults,
    Participants,
    answer_faults,
    client_faults,
    node_faults,
    schedule,
    valkey_faults,
)
from .follower import Follower
from .ledger import Ledger, Totals

ROOMS = ("chaos-1", "chaos-2", "chaos-3", "chaos-4")
ROOMS_OF_EACH = 2
USERS = ("alice", "bob")
"""Users with credentials in development, for every kind of authentication."""

MESSAGES_PER_S = 100.0
HISTORY_MESSAGES = 100
"""History per room: some seconds of messages, which is too short for some absences."""

PRESENCE_LEASE_S = 3

HANDLER_TIMEOUT_S = 2
"""Short, so that a key that a killed node has claimed can be used again within the trial."""

LATE_S = 30.0
"""How late a fault may begin on a slow machine. A later one is left out, with all after it."""

Show = Callable[[str], None]


class Trial:
    """One run. All its processes have ended when `run` returns."""

    def __init__(self, directory: Path, *, clients: int, seconds: float, seed: int) -> None:
        self.ledger = Ledger()
        self.faults: Counter[str] = Counter()
        self._seconds = seconds
        self._seed = seed
        self._rng = random.Random(seed)
        self._valkey = SocketServer(directory)
        self._proxy = Proxy(f"unix://{directory / 'proxy.sock'}", self._valkey.url)
        environment, self._settings = engine_environment(
            REDIS_URL=self._proxy.url,
            HISTORY_MESSAGES=str(HISTORY_MESSAGES),
            HANDLER_TIMEOUT_S=str(HANDLER_TIMEOUT_S),
            PRESENCE_LEASE_S=str(PRESENCE_LEASE_S),
        )
        key = self._settings.backend_key
        self._backend = {"Authorization": f"Bearer {key.get_secret_value() if key else ''}"}
        self._nodes = [Node(f"node {number}", directory, environment) for number in (1, 2)]
        self.processes = [self._valkey, *self._nodes]
        self.clients = [
            Client(
                self._options_of(USERS[number % len(USERS)]),
                self._rng.sample(ROOMS, ROOMS_OF_EACH),
                self.ledger,
                pause_s=clients / MESSAGES_PER_S,
                seed=f"{seed} client {number}",
            )
            for number in range(clients)
        ]
        self.followers = [
            Follower(
                self._settings,
                USERS[number % len(USERS)],
                Relay(lambda: self._rng.choice(self._nodes).port),
                room,
                self.ledger,
            )
            for number, room in enumerate(ROOMS)
        ]
        self._participants: Participants = [*self.clients, *self.followers]
        self._active: dict[str, str] = {}

    async def run(self, show: Show) -> None:
        """Inject the faults, and wait until all clients have settled.

        Raises:
            Failure: a process does not start or exits by itself, or the service permanently refuses
                a command or does not recover.
        """
        try:
            async with self._proxy.running():
                for process in self.processes:
                    await process.start()
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(each.run()) for each in self._participants]
                    running.append(tasks.create_task(self._watch(show)))
                    await self._inject_faults()
                    await self._settle()
                    for task in running:
                        task.cancel()
        except ExceptionGroup as group:
            raise first_failure(group) from None
        finally:
            for process in self.processes:
                process.kill()

    def totals(self) -> Totals:
        """Return the totals; valid after the run."""
        total = self.ledger.totals()
        for follower in self.followers:
            total = total.plus(follower.totals())
        return total

    def _options_of(self, user: str) -> Callable[[], Awaitable[ConnectOptions]]:
        async def next_options() -> ConnectOptions:
            node = self._rng.choice(self._nodes)
            return await connect_options(self._settings, user, port=node.port)

        return next_options

    async def _watch(self, show: Show) -> None:
        ends_at = monotonic() + self._seconds
        while True:
            for process in self.processes:
                process.check()
            left_s = max(0, ends_at - monotonic())
            active = ", ".join(f"{victim} {fault}" for victim, fault in self._active.items())
            show(f"{left_s:3.0f} s left, {len(self.ledger.messages):,} messages; {active}")
            await asyncio.sleep(POLL_S)

    async def _inject_faults(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(self._seconds))
            tasks.create_task(self._run_schedule("redis", valkey_faults(self._valkey)))
            tasks.create_task(self._run_schedule("answers", answer_faults(self._proxy)))
            for node in self._nodes:
                tasks.create_task(self._run_schedule(node.name, node_faults(node)))
            tasks.create_task(self._run_schedule("clients", self._client_faults()))

    def _client_faults(self) -> Faults:
        return client_faults(self._participants, self._nodes, self._backend)

    async def _run_schedule(self, victim: str, faults: Faults) -> None:
        began_at = monotonic()
        for fault in schedule(faults, self._seconds, f"{self._seed} {victim}"):
            await asyncio.sleep(began_at + fault.begins_s - monotonic())
            if monotonic() > began_at + fault.begins_s + LATE_S:
                break
            self._active[victim] = fault.name
            self.faults[f"{victim} {fault.name}"] += 1
            await faults[fault.name](fault.lasts_s)
            del self._active[victim]

    async def _settle(self) -> None:
        self._active["clients"] = "settling"
        for node in self._nodes:
            await node.wait_until_ready()
        await settle(self.clients, self.ledger)
        missed = "some messages did not reach a follower in time"
        await wait_until_settled(lambda: all(each.is_complete for each in self.followers), missed)
        await self._check_presence()

    async def _check_presence(self) -> None:
        """Wait until the presence of each room, at every node, agrees with the participants.

        Raises:
            Failure: it takes too long.
        """
        async with httpx.AsyncClient(
            trust_env=False, headers=self._backend, timeout=START_S
        ) as http:
            for node, room in product(self._nodes, ROOMS):
                url = f"http://127.0.0.1:{node.port}/rooms/{room}/members"
                expected = Counter(each.user for each in self._participants if room in each.rooms)
                give_up_at = monotonic() + SETTLE_S
                while (found := members_in(await http.get(url))) != expected:
                    if monotonic() > give_up_at:
                        msg = f"{node.name}: {room} has {dict(found)}, not {dict(expected)}"
                        raise Failure(msg)
                    await asyncio.sleep(POLL_S)


def members_in(answer: httpx.Response) -> dict[str, int]:
    """Return each user's number of connections; nothing if the request was refused."""
    if answer.status_code != httpx.codes.OK:
        return {}
    return {each["user"]: each["connections"] for each in answer.json()["members"]}


def first_failure(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first failure in a group, or the group if there is none."""
    failures = group.subgroup(Failure)
    if failures is None:
        return group
    failure = failures.exceptions[0]
    return first_failure(failure) if isinstance(failure, ExceptionGroup) else failure
