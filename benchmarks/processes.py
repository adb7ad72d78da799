"""Server processes: pinned to a core, with their resource usage from ``/proc``."""

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.combination import TEMPLATE

from .environment import CACHE

START_S = 30.0
STOP_S = 5.0

PROC = Path("/proc")
LISTEN = "0A"
"""The state of a socket that listens, in ``/proc/net/tcp``: proc_pid_net(5)."""


class Failed(Exception):
    """A server failed; the message says how."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of the servers and of the generator; None without pinning."""

    server: int | None = None
    generator: int | None = None
    reason: str = ""
    """Why processes are not pinned."""


def choose_cores() -> Cores:
    """Return two cores, on different physical cores if possible."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores(reason="this system cannot pin processes to cores")
    server, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return Cores(reason="there is only one core")
    siblings = _siblings(server)
    return Cores(server, next((core for core in others if core not in siblings), others[0]))


def _siblings(core: int) -> set[int]:
    path = f"/sys/devices/system/cpu/cpu{core}/topology/core_cpus_list"
    with suppress(OSError, ValueError):
        ranges = [part.split("-") for part in Path(path).read_text("ascii").strip().split(",")]
        return {core for each in ranges for core in range(int(each[0]), int(each[-1]) + 1)}
    return set()


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pin this thread, and the processes that it starts, to a core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def answers(port: int, path: str | None) -> bool:
    """Return whether a server accepts connections, and a GET of the path, if any, gets 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
        if path is None:
            return True
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Program:
    """The command of a server, which must listen on a port picked by the system."""

    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]

    def with_environment(self, env: Mapping[str, str]) -> "Program":
        """Return the program with additional environment variables."""
        return replace(self, env={**self.env, **env})


class Process:
    """A running server."""

    def __init__(self, program: Program, name: str, core: int | None) -> None:
        # With the process id in the name, since another benchmark may run at the same time.
        self._log = CACHE / "logs" / f"{name}-{os.getpid()}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log, pinned(core):
            self._process = subprocess.Popen(
                program.command,
                cwd=program.cwd,
                env=program.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl+C interrupts only the benchmark, which then stops it
            )
        self.pid = self._process.pid

    @property
    def workers(self) -> list[int]:
        """The processes that serve: its children, or else itself."""
        children = PROC / str(self.pid) / "task" / str(self.pid) / "children"
        with suppress(OSError):
            if pids := children.read_text("ascii").split():
                return list(map(int, pids))
        return [self.pid]

    def wait_for_port(self, path: str | None) -> int:
        """Wait until it answers; return its port.

        Raises:
            Failed: it exits, or does not answer in time.
        """
        port: int | None = None

        def ready() -> bool:
            nonlocal port
            ports = {listening_port(pid) for pid in self.workers}
            port = ports.pop() if len(ports) == 1 else None
            return port is not None and answers(port, path)

        self.wait_until(ready)
        assert port is not None  # noqa: S101 - it is ready
        return port

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for a condition.

        Raises:
            Failed: the process exits, or the condition does not hold in time.
        """
        deadline = time.monotonic() + START_S
        while not ready():
            if self._process.poll() is not None:
                message = f"does not start: {self._last_words()}"
                raise Failed(message)
            if time.monotonic() > deadline:
                message = f"is not ready after {START_S:.0f} s: {self._last_words()}"
                raise Failed(message)
            time.sleep(0.02)

    def stop(self) -> None:
        """Terminate it, or kill it if it does not exit in time."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _last_words(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        # Paths of this machine must not be published.
        lines = text.replace(f"{TEMPLATE}/", "").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def listening_port(pid: int) -> int | None:
    """Return the TCP port on which a process listens, None without one."""
    process = PROC / str(pid)
    with suppress(OSError):  # the process has ended
        sockets = set(_open_files(process))
        for row in (process / "net" / "tcp").read_text("ascii").splitlines()[1:]:
            _, local, _, state, _, _, _, _, _, inode, *_ = row.split()
            if state == LISTEN and f"socket:[{inode}]" in sockets:
                return int(local.partition(":")[2], 16)
    return None


def _open_files(process: Path) -> Iterator[str]:
    for path in (process / "fd").iterdir():
        with suppress(OSError):  # it has just been closed
            yield str(path.readlink())


def memory_bytes(pids: Sequence[int], *, peak: bool = False) -> int | None:
    """Return the resident memory of processes, or its peak; None without ``/proc``."""
    total, name = 0, "VmHWM:" if peak else "VmRSS:"
    for pid in pids:
        try:
            words = (PROC / str(pid) / "status").read_text("ascii").split()
            total += int(words[words.index(name) + 1]) * 1024
        except (OSError, ValueError):
            return None
    return total


def forget_peak(pids: Sequence[int]) -> None:
    """Reset the peak of resident memory, if the system supports it."""
    for pid in pids:
        with suppress(OSError):
            (PROC / str(pid) / "clear_refs").write_text("5", "ascii")


@dataclass(frozen=True, slots=True)
class Spent:
    """The CPU time of a measurement; None without ``/proc``."""

    cpu_s: float | None
    foreign: float | None
    """Share of the servers' core that other processes used while the servers waited for it."""


class Meter:
    """Measures the CPU time that servers use after its creation."""

    def __init__(self, pids: Sequence[int], core: int | None) -> None:
        self._pids, self._core = pids, core
        self._at = time.monotonic()
        self._threads = _threads(pids)
        self._stolen_s = _stolen_s(core)

    def read(self) -> Spent:
        """Return the CPU time up to now."""
        seconds = time.monotonic() - self._at
        ran, waited = {}, {}
        for thread, (run_s, wait_s) in _threads(self._pids).items():
            before = self._threads.get(thread, (0.0, 0.0))
            ran[thread], waited[thread] = run_s - before[0], wait_s - before[1]
        if not ran:
            return Spent(None, None)
        cpu_s = sum(ran.values())
        if self._core is None:
            return Spent(cpu_s, None)
        # While one thread waited for the core, other threads of the servers may have used it.
        foreign_s = max(0.0, *(waited[thread] - (cpu_s - ran[thread]) for thread in ran))
        return Spent(cpu_s, (foreign_s + _stolen_s(self._core) - self._stolen_s) / seconds)


def _threads(pids: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Return for each thread the seconds that it ran, and waited for a core."""
    times = {}
    for path in (path for pid in pids for path in PROC.glob(f"{pid}/task/*/schedstat")):
        with suppress(OSError):  # the thread has ended
            run_ns, wait_ns, _ = path.read_text("ascii").split()
            times[path.parent.name] = (int(run_ns) / 1e9, int(wait_ns) / 1e9)
    return times


def _stolen_s(core: int | None) -> float:
    """Return the steal time of a core: the host used it for other virtual machines."""
    with suppress(OSError):
        for line in (PROC / "stat").read_text("ascii").splitlines():
            name, *ticks = line.split()
            if name == f"cpu{core}":
                return int(ticks[7]) / os.sysconf("SC_CLK_TCK")
    return 0.0
