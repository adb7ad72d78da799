"""Budgets: limits on the work that a connection, and all connections of a user, may cause.

Each budget is a `RateLimit`. These are charged to the budgets of the connection and of its user:

- each message, control frame and fragment, by number or by bytes;
- answers above `FREE_ANSWER_BYTES`, with the frames that follow them;
- the extra work for a message: many arrays and objects, errors to explain, numbers that get
  longer when they are encoded again (not counted in small messages), and recipients beyond
  `FREE_RECIPIENTS`.

Messages to others are also charged to the budget that the user has for the target.
"""

import asyncio
import math
from time import monotonic

from pydantic import JsonValue
from pydantic_core import to_json

from ..errors import Flood, RateLimited, TooLarge
from ..settings.settings import RealtimeSettings
from .rate import RateLimit

FREE_ANSWER_BYTES = 1_024
"""Answers up to this size are part of the price of their command."""

GROWTH = 5
"""Data grows at most by this factor when it is encoded again: `1e15` gets 18 characters."""

LARGE_BYTES = 1_024
BRACKET_BYTES = 16
"""Price of a bracket in a large message: parsing it takes as long as 16 other bytes."""

INVALID_PRICE = 8
"""Price of a byte in a frame that is not a valid command."""

FREE_RECIPIENTS = 4
"""Recipients included in the price of a message; each 4 more cost its bytes once more."""

KEY_BYTES = 32_768
"""Price of an idempotency key, which is stored for minutes."""

MAX_TARGETS = 100
"""Targets for which a user has a budget. At this number, budgets that are paid off are removed."""

MAX_REFUSALS_LOGGED = 50
"""Kinds of refusal logged for one connection; a bound for kinds that are made up at run time."""


def check_data_size(data: JsonValue, max_bytes: int) -> int:
    """Return the size of a message's data in bytes when it is encoded again.

    Raises:
        TooLarge: it is larger than a message may be.
    """
    size_bytes = len(to_json(data))
    if size_bytes > max_bytes:
        raise TooLarge(f"encoded again, the data has {size_bytes} bytes")
    return size_bytes


class UserBudget(RateLimit):
    """The budget of a user, and one for each target of its messages."""

    __slots__ = ("_settings", "_targets", "connections", "forgetting")

    def __init__(self, settings: RealtimeSettings) -> None:
        rates = settings.max_messages_per_s_per_user, settings.max_bytes_per_s_per_user
        super().__init__(*rates, settings.max_burst_s)
        self._settings = settings
        self._targets: dict[str, RateLimit] = {}
        self.connections = 0
        self.forgetting: asyncio.TimerHandle | None = None

    def target(self, target: str, now: float) -> RateLimit:
        """Return the budget for messages to a target."""
        budget = self._targets.get(target)
        if budget is None:
            if len(self._targets) >= MAX_TARGETS:
                old = self._targets.items()
                self._targets = {name: budget for name, budget in old if budget.lead_s(now)}
            bytes_per_s = self._settings.max_bytes_per_s_per_target
            budget = RateLimit(math.inf, bytes_per_s, self._settings.max_burst_s)
            self._targets[target] = budget
        return budget

    def unpaid_s(self, now: float) -> float:
        """Return how many seconds pass until all is paid."""
        return max(budget.lead_s(now) for budget in (self, *self._targets.values()))


class Budgets:
    """The budgets of the users of this process. Each is kept until it is paid off."""

    def __init__(self, settings: RealtimeSettings) -> None:
        self._settings = settings
        self._of_users: dict[str, UserBudget] = {}

    def enter(self, user: str) -> UserBudget:
        """Count a connection in and return its user's budget. It must leave exactly once."""
        budget = self._of_users.get(user)
        if budget is None:
            budget = self._of_users[user] = UserBudget(self._settings)
        elif budget.forgetting is not None:
            budget.forgetting.cancel()
        budget.connections += 1
        return budget

    def leave(self, user: str) -> None:
        """Count a connection of the user out."""
        budget = self._of_users[user]
        budget.connections -= 1
        if not budget.connections:
            loop, unpaid_s = asyncio.get_running_loop(), budget.unpaid_s(monotonic())
            budget.forgetting = loop.call_later(unpaid_s, self._of_users.pop, user)


class ClientLimits:
    """The budgets and counts of one connection. They are checked for every message."""

    __slots__ = (
        "_own",
        "_price_bytes",
        "_refusals",
        "_refused",
        "_settings",
        "_small_bytes",
        "_user",
        "errors_in_a_row",
    )

    def __init__(self, settings: RealtimeSettings, user: UserBudget) -> None:
        rates = settings.max_messages_per_s, settings.max_bytes_per_s, settings.max_burst_s
        self._settings = settings
        self._own: RateLimit = RateLimit(*rates)
        self._user: RateLimit = user
        self._refused = RateLimit(*rates)
        self._price_bytes = 0
        self._small_bytes = min(FREE_ANSWER_BYTES, settings.max_message_bytes) // GROWTH
        self.errors_in_a_row = 0
        self._refusals: frozenset[str] = frozenset()  # the empty one takes no memory

    def exempt(self) -> None:
        """Disable the budgets of this connection."""
        self._own = self._user = RateLimit(math.inf, burst_s=math.inf)

    def pay(self, frame: str) -> int:
        """Pay for a message; return its size in bytes.

        Raises:
            RateLimited: a budget is spent.
            Flood: the budget for refused commands is spent, too.
        """
        size_bytes = price_bytes = len(frame) if frame.isascii() else len(frame.encode())
        if size_bytes > LARGE_BYTES:
            price_bytes += BRACKET_BYTES * (frame.count("[") + frame.count("{"))
        self._price_bytes = price_bytes
        now = monotonic()
        if not self._own.take(now, price_bytes):
            self._refuse(now, self._own, "this connection")
        if not self._user.take(now, price_bytes):
            self._refuse(now, self._user, "all connections of this user")
        return size_bytes

    def pay_for_frames(self, count: int) -> None:
        """Pay for control frames and fragments, which have no answer that could refuse them.

        Raises:
            Flood: the budgets are spent, and so is the one for refused commands.
        """
        now = monotonic()
        for _ in range(count):
            is_paid = self._own.take(now) and self._user.take(now)
            if not is_paid and not self._refused.take(now):
                raise Flood

    def pay_for_message(
        self, target: str, data: JsonValue, recipients: int, least_bytes: int = 0
    ) -> None:
        """Pay for a message to a target with this number of recipients in this process.

        If ``data`` does not come from the client's last frame, ``least_bytes`` must be its size.

        Raises:
            TooLarge: encoded again, the data is larger than a message may be.
            RateLimited: the user's budget for this target is spent.
            Flood: the budget for refused commands is spent, too.
        """
        size_bytes = self._price_bytes
        if size_bytes > self._small_bytes:
            size_bytes = check_data_size(data, self._settings.max_message_bytes)
        size_bytes = max(size_bytes, least_bytes)
        if isinstance(self._user, UserBudget):
            now = monotonic()
            budget = self._user.target(target, now)
            if not budget.take(now, size_bytes):
                self._refuse(now, budget, "this user's messages to this target")
        more_bytes = size_bytes * max(0, recipients // FREE_RECIPIENTS - 1)
        more_bytes += max(0, size_bytes - self._price_bytes)
        if more_bytes:
            self.charge(more_bytes)

    def charge(self, size_bytes: float) -> None:
        """Pay for bytes that the last message has caused."""
        now = monotonic()
        self._own.charge(now, size_bytes)
        self._user.charge(now, size_bytes)

    def _refuse(self, now: float, budget: RateLimit, payer: str) -> None:
        if not self._refused.take(now, self._price_bytes):
            raise Flood
        wait_s = budget.lead_s(now) - self._settings.max_burst_s
        retry_s = (math.floor(10 * wait_s) + 1) / 10  # rounded up, so that it is enough
        raise RateLimited(f"the budget of {payer} is spent; retry in {retry_s} s")

    def count_error(self) -> bool:
        """Pay for a frame that is not a valid command; return whether too many came in a row."""
        self.charge((INVALID_PRICE - 1) * self._price_bytes)
        self.errors_in_a_row += 1
        return self.errors_in_a_row >= self._settings.max_errors_in_a_row

    def is_first_refusal(self, kind: str) -> bool:
        """Return whether this is the first refusal of its kind, which is worth a log line."""
        if kind in self._refusals or len(self._refusals) >= MAX_REFUSALS_LOGGED:
            return False
        self._refusals |= {kind}
        return True
