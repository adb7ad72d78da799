"""The trial: clients over two nodes and a Valkey, to which the faults are done."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic

from dev.connect import ConnectOptions, connect_options

from ..processes import POLL_S, Failure, Node, engine_environment
from ..redis.servers import SocketServer
from .client import Client, come_to_rest
from .faults import Deeds, deeds_on_clients, deeds_on_node, deeds_on_valkey, schedule
from .ledger import Ledger

ROOMS = ("chaos-1", "chaos-2", "chaos-3", "chaos-4")
ROOMS_OF_EACH = 2
USERS = ("alice", "bob")
"""Those who have credentials in development, whatever kind of them the service takes."""

MESSAGES_PER_S = 100.0
HISTORY_MESSAGES = 100
"""What a room keeps, which are some seconds' messages: not enough for everybody who comes back."""

Show = Callable[[str], None]


class Trial:
    """One run. Everything that it starts has ended when it returns."""

    def __init__(self, directory: Path, *, clients: int, seconds: float, seed: int) -> None:
        self.ledger = Ledger()
        self.faults: Counter[str] = Counter()
        self._seconds = seconds
        self._seed = seed
        self._rng = random.Random(seed)
        self._valkey = SocketServer(directory)
        environment, self._settings = engine_environment(
            REDIS_URL=self._valkey.url, HISTORY_MESSAGES=str(HISTORY_MESSAGES)
        )
        self._nodes = [Node(f"node {number}", directory, environment) for number in (1, 2)]
        self.processes = [self._valkey, *self._nodes]
        self.clients = [
            Client(
                self._reach_as(USERS[number % len(USERS)]),
                self._rng.sample(ROOMS, ROOMS_OF_EACH),
                self.ledger,
                pause_s=clients / MESSAGES_PER_S,
                seed=f"{seed} client {number}",
            )
            for number in range(clients)
        ]
        self._happening: dict[str, str] = {}

    async def run(self, show: Show) -> None:
        """Let it happen, and wait until everybody has come to rest.

        Raises:
            Failure: a process does not start or ends by itself, the service refuses what it should
                not, or does not recover.

        """
        try:
            for process in self.processes:
                await process.start()
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(client.run()) for client in self.clients]
                running.append(tasks.create_task(self._watch(show)))
                await self._suffer()
                await self._rest()
                for task in running:
                    task.cancel()
        except ExceptionGroup as group:
            raise first_failure(group) from None
        finally:
            for process in self.processes:
                process.kill()

    def _reach_as(self, user: str) -> Callable[[], Awaitable[ConnectOptions]]:
        async def reach() -> ConnectOptions:
            node = self._rng.choice(self._nodes)
            return await connect_options(self._settings, user, port=node.port)

        return reach

    async def _watch(self, show: Show) -> None:
        ends_at = monotonic() + self._seconds
        while True:
            for process in self.processes:
                process.check()
            left_s = max(0, ends_at - monotonic())
            what = ", ".join(f"{name} {deed}" for name, deed in self._happening.items())
            show(f"{left_s:3.0f} s left, {len(self.ledger.messages):,} messages; {what}")
            await asyncio.sleep(POLL_S)

    async def _suffer(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(self._seconds))
            tasks.create_task(self._do("redis", deeds_on_valkey(self._valkey)))
            for node in self._nodes:
                tasks.create_task(self._do(node.name, deeds_on_node(node)))
            tasks.create_task(self._do("clients", deeds_on_clients(self.clients)))

    async def _do(self, victim: str, deeds: Deeds) -> None:
        began_at = monotonic()
        for fault in schedule(deeds, self._seconds, f"{self._seed} {victim}"):
            await asyncio.sleep(began_at + fault.begins_s - monotonic())
            if monotonic() > began_at + self._seconds:
                break
            self._happening[victim] = fault.deed
            self.faults[f"{victim} {fault.deed}"] += 1
            await deeds[fault.deed](fault.lasts_s)
            del self._happening[victim]

    async def _rest(self) -> None:
        self._happening["all"] = "coming to rest"
        for node in self._nodes:
            await node.wait_until_ready()
        await come_to_rest(self.clients, self.ledger)


def first_failure(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first failure in a group, or the group if there is none."""
    failures = group.subgroup(Failure)
    if failures is None:
        return group
    failure = failures.exceptions[0]
    return first_failure(failure) if isinstance(failure, ExceptionGroup) else failure
