"""Serve, and restart when app/ or .env changes."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from .processes import run_until_signal, running


def is_env_file(_: Change, path: str) -> bool:
    """Return whether ``.env`` has changed."""
    return Path(path).name == ".env"


async def watch(
    changed: asyncio.Event, path: str, matches: Callable[[Change, str], bool], *, recursive: bool
) -> None:
    """Set the event at each change below a path that ``matches``."""
    async for _ in awatch(path, watch_filter=matches, recursive=recursive):
        changed.set()


async def tell_end(service: Process) -> None:
    """Print a line if the service ends by itself."""
    status = await service.wait()
    print(f"the service has ended with status {status}; it starts again at a change", flush=True)


async def serve(changed: asyncio.Event) -> None:
    """Run the service, and start it again after each change."""
    while True:
        changed.clear()
        async with running(sys.executable, "-m", "app") as service, asyncio.TaskGroup() as group:
            telling = group.create_task(tell_end(service))
            await changed.wait()
            telling.cancel()


async def serve_and_watch() -> None:
    """Serve, and restart at changes, until cancelled."""
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch(changed, "app", DefaultFilter(), recursive=True))
        # The folder, not `.env` itself, since most editors replace the file.
        group.create_task(watch(changed, ".", is_env_file, recursive=False))
        await serve(changed)


if __name__ == "__main__":
    run_until_signal(serve_and_watch())
