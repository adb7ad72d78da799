"""Credentials in the handshake of a client."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Handshake:
    """The headers of a WebSocket handshake that have credentials, and these by themselves."""

    headers: dict[str, str]
    token: str
