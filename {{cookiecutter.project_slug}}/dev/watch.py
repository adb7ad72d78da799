"""Serve, and restart when app/ or .env changes."""

import asyncio
import signal
import sys
from asyncio.subprocess import create_subprocess_exec
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch


def is_env_file(_: Change, path: str) -> bool:
    """Return whether a change is one of ``.env``."""
    return Path(path).name == ".env"


async def watch(
    changed: asyncio.Event, path: str, counts: Callable[[Change, str], bool], *, recursive: bool
) -> None:
    """Set the event at each change that counts."""
    async for _ in awatch(path, watch_filter=counts, recursive=recursive):
        changed.set()


async def serve(changed: asyncio.Event, stopped: asyncio.Event) -> None:
    """Run the service, and start it again after each change, until the second event is set."""
    while not stopped.is_set():
        changed.clear()
        service = await create_subprocess_exec(sys.executable, "-m", "app")
        try:
            await changed.wait()
            with suppress(ProcessLookupError):  # it has ended
                service.send_signal(signal.SIGINT)
        finally:  # Ctrl+C reaches the service by itself; a second signal would kill it
            await service.wait()


async def main() -> None:
    """Serve until a signal. Ctrl+C, which the service gets as well, cancels this."""
    serving = asyncio.create_task(serve_and_watch())
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, serving.cancel)
    await serving


async def serve_and_watch() -> None:
    """Serve until SIGTERM or SIGHUP."""
    changed, stopped = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        stopped.set()
        changed.set()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as group:
        watching = [
            group.create_task(watch(changed, "app", DefaultFilter(), recursive=True)),
            # Not the file itself, since most editors replace it.
            group.create_task(watch(changed, ".", is_env_file, recursive=False)),
        ]
        await serve(changed, stopped)
        for task in watching:
            task.cancel()


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(main())
