"""The options of rooms: their history, their presence, and the events of presence."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from ..fields import Seconds
from ..settings.settings import RealtimeSettings

MAX_REMEMBERED = 10_000
"""How many rooms, the most recently used ones, have their rules in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True, config={"strict": True, "extra": "forbid"})
class RoomOptions:
    """Options of one room, which override the settings.

    ``history_messages``, ``history_s`` and ``history_bytes`` replace the settings of these names.
    Without ``presence`` a room has no list of members. Without ``presence_events`` it has one, but
    its members get no `joined`, `updated` or `left`.
    """

    history_messages: NonNegativeInt | None = None
    history_s: Seconds | None = None
    history_bytes: PositiveInt | None = None
    presence: bool = True
    presence_events: bool = True


class Rules(NamedTuple):
    """The options of one room, with the settings in place of those that are not set."""

    history_messages: int
    history_s: float
    history_bytes: int
    has_presence: bool
    max_members_for_events: int


def make_rules(
    settings: RealtimeSettings,
    room_options: Callable[[str], RoomOptions] = lambda room: RoomOptions(),
) -> Callable[[str], Rules]:
    """Return a function that returns the rules of a room, and caches them."""

    @lru_cache(MAX_REMEMBERED)
    def rules_of(room: str) -> Rules:
        options = room_options(room)
        if not isinstance(options, RoomOptions):
            kind = type(options).__name__
            raise TypeError(f"room_options must be a `def` that returns RoomOptions, not {kind}")
        max_bytes = settings.max_unsent_bytes - settings.max_message_bytes
        if options.history_bytes is not None and options.history_bytes > max_bytes:
            msg = f"at most {max_bytes}, which is MAX_UNSENT_BYTES - MAX_MESSAGE_BYTES"
            raise ValueError(f"history_bytes: must be {msg}")
        messages, max_members = options.history_messages, settings.max_members_for_presence_events
        return Rules(
            history_messages=settings.history_messages if messages is None else messages,
            history_s=options.history_s or settings.history_s,
            history_bytes=options.history_bytes or settings.history_bytes,
            has_presence=options.presence,
            max_members_for_events=max_members if options.presence_events else 0,
        )

    return rules_of
