"""The options of rooms: what each keeps of its messages, and tells of its members."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from ..fields import Seconds
from ..settings.settings import RealtimeSettings

MAX_REMEMBERED = 10_000
"""Rooms whose options are remembered; those of older ones are asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True, config={"strict": True, "extra": "forbid"})
class RoomOptions:
    """What differs from the settings in one room.

    ``history_messages``, ``history_s`` and ``history_bytes`` replace the settings of these names.
    Without ``presence`` nobody can ask for the members. Without ``presence_events`` the members can
    ask, but are not told of each other.
    """

    history_messages: NonNegativeInt | None = None
    history_s: Seconds | None = None
    history_bytes: PositiveInt | None = None
    presence: bool = True
    presence_events: bool = True


class Rules(NamedTuple):
    """The rules of one room: its options, and the settings for what they leave out."""

    history_messages: int
    history_s: float
    history_bytes: int
    has_presence: bool
    max_members_for_events: int


def rules_of(options: RoomOptions, settings: RealtimeSettings) -> Rules:
    """Return the rules of a room with these options."""
    messages, max_told = options.history_messages, settings.max_members_for_presence_events
    return Rules(
        history_messages=settings.history_messages if messages is None else messages,
        history_s=options.history_s or settings.history_s,
        history_bytes=options.history_bytes or settings.history_bytes,
        has_presence=options.presence,
        max_members_for_events=max_told if options.presence_events else 0,
    )


class RulesOfRooms:
    """The rules of all rooms. The policy is asked once for each."""

    def __init__(self, settings: RealtimeSettings) -> None:
        self._settings = settings
        self.set_policy(lambda room: RoomOptions())

    def set_policy(self, room_options: Callable[[str], RoomOptions]) -> None:
        """Ask this function for the options of a room."""

        def ask(room: str) -> Rules:
            options = room_options(room)
            if not isinstance(options, RoomOptions):
                kind = type(options).__name__
                msg = f"room_options must be a `def` that returns RoomOptions, not {kind}"
                raise TypeError(msg)
            return rules_of(options, self._settings)

        self.of = lru_cache(MAX_REMEMBERED)(ask)
