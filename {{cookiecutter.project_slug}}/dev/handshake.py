"""What a client adds to its handshake to be let in."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Handshake:
    """The parts of a WebSocket handshake in which credentials can stand."""

    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    subprotocols: list[str] = field(default_factory=list)
