"""Status of a connection, its end, and the pause between attempts."""

import random
from dataclasses import dataclass
from typing import Literal

NORMAL, ABNORMAL = 1000, 1006
FINAL = {1002, 1003, 1007, 1009, *range(4500, 5000)}
"""Close codes after which a client must not reconnect."""

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0


@dataclass(frozen=True, slots=True)
class Status:
    """Status of a connection. A connection that has lasted for 20 s resets ``attempt`` to 1."""

    state: Literal["connecting", "online", "offline", "ended"]
    attempt: int = 0
    code: int | None = None
    reason: str = ""
    pause_s: float | None = None


class Ended(Exception):
    """The connection has ended permanently, with a close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def pause(attempt: int) -> float:
    """Return a random time from 0.5 s to a limit that doubles with each attempt, up to 20 s."""
    # The exponent is limited, too: after hours without a server, the power would overflow.
    return random.uniform(SHORTEST_PAUSE_S, min(LONGEST_PAUSE_S, 2.0 ** min(attempt, 10)))
