"""Credentials in the handshake of a client."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Handshake:
    """The parts of a WebSocket handshake that can have credentials, and these by themselves."""

    # {% if cookiecutter.auth == "ticket" %}
    query: dict[str, str] = field(default_factory=dict)
    # {% endif %}
    headers: dict[str, str] = field(default_factory=dict)
    token: str = ""
