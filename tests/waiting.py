"""Waits for conditions, never for time."""

import time
from collections.abc import Callable

DEADLINE_S = 180.0
"""After this time on a slow machine, something hangs."""


def wait_until(
    condition: Callable[[], object],
    act: Callable[[], object] = lambda: time.sleep(0.02),
    *,
    told: Callable[[], object] = lambda: "a condition is not met in time",
) -> None:
    """Act until a condition is met. The assertion has what is ``told`` at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        act()
