"""Waits for conditions, never for time."""

import time
from collections.abc import Callable

DEADLINE_S = 180.0
"""Long enough for a slow machine: a wait that takes longer hangs."""


def wait_until(
    condition: Callable[[], object],
    act: Callable[[], object] = lambda: time.sleep(0.02),
    *,
    told: Callable[[], object] = lambda: "a condition is not met in time",
) -> None:
    """Act until a condition is met; at the deadline, fail with what ``told`` returns."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        act()
