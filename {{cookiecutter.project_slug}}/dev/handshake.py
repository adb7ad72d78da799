"""Credentials in the handshake of a client."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Handshake:
    """The headers of a WebSocket handshake that have credentials, and these by themselves."""

    headers: dict[str, str] = field(default_factory=dict)
    token: str = ""
