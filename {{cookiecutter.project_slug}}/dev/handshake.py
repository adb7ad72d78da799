"""Credentials in the handshake of a client."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Handshake:
    """The parts of a WebSocket handshake that can have credentials, and these by themselves."""

    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    subprotocols: list[str] = field(default_factory=list)
    token: str = ""
