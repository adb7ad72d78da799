"""Several processes on one port. Each is a node of its own; their parent starts and stops them.

Each has a socket on the port, and Linux spreads new connections over those that listen, so a
process that is starting or dead gets none. A killed process is started again. If a process fails,
for example because of a wrong setting, it would fail again, so all processes stop.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from threading import Thread
from time import monotonic

import structlog

from ..settings.settings import RealtimeSettings

VARIABLE = "APP_REALTIME_WORKER"
"""The environment variable that makes a process a worker: its number, and file descriptors."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Pauses before a process starts again, each twice the one before."""

STABLE_S = 60.0
"""A process that has run for longer than this restarts after the first pause."""

PORT_ATTEMPTS = 10
"""How many ports of the system's choice are tried, until one is free for IPv4 and IPv6."""

NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Error numbers for an address that this machine does not have, such as ``::1`` without IPv6."""

STARTUP_FAILURE = 3
"""The exit status of uvicorn if it cannot listen."""

log = structlog.stdlib.get_logger(__name__)


def this_worker() -> tuple[int, list[socket.socket]] | None:
    """Return the number and the bound sockets of a worker, None in another process.

    The sockets have the shared port and, if ``METRICS_KEY`` is set, the worker's own for metrics.
    From then on, the worker stops when its parent ends.
    """
    if VARIABLE not in os.environ:
        return None
    number, pipe, *descriptors = map(int, os.environ.pop(VARIABLE).split())
    Thread(target=_stop_with_parent, args=(pipe,), daemon=True).start()
    return number, [socket.socket(fileno=each) for each in descriptors]


def _stop_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # it returns when the parent has ended
    os.kill(os.getpid(), signal.SIGTERM)


def _bind_socket(family: int, address: tuple[str | int, ...], *, shared: bool) -> socket.socket:
    with ExitStack() as unless_bound:
        listener = unless_bound.enter_context(socket.socket(family))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        unless_bound.pop_all()
    return listener


class Parent:
    """Runs ``WORKERS`` processes, and stops all of them when it gets a signal or one fails."""

    def __init__(self, settings: RealtimeSettings) -> None:
        self._settings = settings
        self._port = settings.port
        self._processes: set[Process] = set()
        self._stopping = asyncio.Event()
        self._was_signalled = False
        self._read_end, self._write_end = os.pipe()  # the workers notice when this process ends

    async def run(self) -> int:
        """Run until all processes have ended; return the exit status."""
        loop, workers = asyncio.get_running_loop(), self._settings.workers
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            # First without sharing, so that this fails if another service has the port.
            reserved = self._bind(self._port)
        except OSError as failure:
            log.error("cannot listen", port=self._port, error=failure.strerror)
            return STARTUP_FAILURE
        with ExitStack() as stack:
            for each in reserved:
                stack.enter_context(each)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._port = reserved[0].getsockname()[1]
            level = logging.INFO if self._settings.port else logging.WARNING
            host, port = self._settings.host, self._port
            log.log(level, "listening", host=host, port=port, workers=workers)
            return max(await asyncio.gather(*map(self._keep, range(1, workers + 1))))

    async def _keep(self, number: int) -> int:
        """Run one of the processes, and restart it unless all stop; return its last exit status."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            begin = monotonic()
            status = await self._run(number)
            if self._stopping.is_set():
                if status is None or -status in (signal.SIGINT, signal.SIGTERM):  # it was starting
                    return 0
                return abs(status)
            if status is not None and status > 0:
                log.critical("a worker has failed, so all stop", worker=number, status=status)
                self._stop(signal.SIGTERM)
                return status
            if monotonic() - begin > STABLE_S:
                pause_s = FIRST_PAUSE_S
            if status is not None:
                ended_by = -status or None
                log.error("worker ended", worker=number, signal=ended_by, next_start_s=pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return 0

    async def _run(self, number: int) -> int | None:
        """Run a process; return its exit status, None if the system cannot start it now."""
        with ExitStack() as stack:
            try:
                port = self._port
                sockets = [*map(stack.enter_context, self._bind(port, shared=True))]
                if self._settings.metrics_key is not None:
                    port = self._settings.port and self._port + number
                    sockets += map(stack.enter_context, self._bind(port))
            except OSError as failure:
                log.error("cannot listen", worker=number, port=port, error=failure.strerror)
                return STARTUP_FAILURE
            descriptors = [self._read_end, *(each.fileno() for each in sockets)]
            # A worker gets Ctrl+C only when `app.__main__` or `serve` is ready and unblocks it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *sys.orig_argv[1:]),
                    pass_fds=descriptors,
                    env={**os.environ, VARIABLE: " ".join(map(str, (number, *descriptors)))},
                    process_group=0,  # Ctrl+C is for the parent, which passes it on
                )
            except OSError as failure:
                log.error("worker not started", worker=number, error=failure.strerror)
                return None
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            ports = [each.getsockname()[1] for each in sockets]
            log.info("worker started", worker=number, pid=process.pid, ports=ports)
        self._processes.add(process)
        if self._stopping.is_set():
            process.terminate()
        status = await process.wait()
        self._processes.remove(process)
        return status

    def _bind(self, port: int, *, shared: bool = False) -> list[socket.socket]:
        """Return a bound socket for each address of the host that this machine has.

        ``::`` means IPv4 and IPv6, and needs both. For port 0 the system picks one for the first
        socket, and the others may find it taken.
        """
        for _ in range(0 if port else PORT_ATTEMPTS - 1):
            with suppress(OSError):
                return self._bind_once(port, shared=shared)
        return self._bind_once(port, shared=shared)

    def _bind_once(self, port: int, *, shared: bool) -> list[socket.socket]:
        host, bound = self._settings.host, list[socket.socket]()
        hosts = ("::", str(IPv4Address(0))) if host == "::" else (host,)
        found = [socket.getaddrinfo(each, port, type=socket.SOCK_STREAM) for each in hosts]
        addresses = {address: family for each in found for family, *_, address in each}
        missing: OSError | None = None
        with ExitStack() as unless_all_are_bound:
            for address, family in addresses.items():
                try:
                    listener = _bind_socket(family, (address[0], port, *address[2:]), shared=shared)
                except OSError as failure:
                    if host == "::" or failure.errno not in NO_SUCH_ADDRESS:
                        raise
                    missing = failure
                else:
                    bound.append(unless_all_are_bound.enter_context(listener))
                    port = listener.getsockname()[1]
            if missing is not None and not bound:
                raise missing
            unless_all_are_bound.pop_all()
        return bound

    def _on_signal(self, number: int) -> None:
        """Stop; at a second signal, end everything at once."""
        is_second, self._was_signalled = self._was_signalled, True
        self._stop(signal.SIGKILL if is_second else number)
        if is_second:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _stop(self, number: int) -> None:
        """Stop all processes by this signal, and start no more."""
        self._stopping.set()
        for process in self._processes:
            with suppress(ProcessLookupError):  # it has just ended
                process.send_signal(number)
