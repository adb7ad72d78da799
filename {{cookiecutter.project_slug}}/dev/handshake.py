"""Credentials in the handshake of a client."""

# {% if cookiecutter.auth != "none" %}
import sys
# {% endif %}
from dataclasses import dataclass
# {% if cookiecutter.auth != "none" %}

from app.realtime import Identity, Unauthorized
# {% endif %}


@dataclass(frozen=True, slots=True)
class Handshake:
    """Credentials: the headers of a WebSocket handshake that carry them, and the token alone."""

    headers: dict[str, str]
    token: str
# {% if cookiecutter.auth != "none" %}


def check_name(user: str) -> None:
    """Exit unless this is a valid user name."""
    try:
        Identity(user)
    except Unauthorized as failure:
        sys.exit(f"error: NAME: {failure}; write NAME=alice")
# {% endif %}
