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
    """The headers of a WebSocket handshake that have credentials, and these by themselves."""

    headers: dict[str, str]
    token: str
# {% if cookiecutter.auth != "none" %}


def check_name(user: str) -> None:
    """Exit unless this may be the name of a user."""
    try:
        Identity(user)
    except Unauthorized as failure:
        sys.exit(f"error: NAME: {failure}; write NAME=alice")
# {% endif %}
