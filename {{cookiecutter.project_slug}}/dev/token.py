# {% if cookiecutter.auth == "none" %}
"""Print JavaScript that connects: ``python -m dev.token``."""
# {% else %}
"""Print credentials, and JavaScript that connects with them: ``python -m dev.token alice``."""
# {% endif %}

import asyncio
# {% if cookiecutter.auth in ["jwt", "session"] %}
import json
# {% endif %}
import sys
# {% if cookiecutter.auth in ["jwt", "session"] %}
from contextlib import suppress
from typing import Any
# {% endif %}

from app.settings import Settings

from . import credentials, javascript
# {% if cookiecutter.auth == "jwt" %}
from .urls import base_url, websocket_url
# {% else %}
from .urls import websocket_url
# {% endif %}
# {% if cookiecutter.auth in ["jwt", "session"] %}


def parse(claims: str) -> dict[str, Any]:
    """Return the claims.

    Raises:
        SystemExit: they are not a JSON object.
    """
    with suppress(ValueError, RecursionError):
        parsed = json.loads(claims)
        if isinstance(parsed, dict):
            return parsed
    sys.exit(f"error: CLAIMS is not a JSON object: {claims}")


async def main(user: str, claims: str = "{}") -> None:
# {% if cookiecutter.auth == "jwt" %}
    """Print a token with these claims, a link to the page in development, and JavaScript."""
# {% else %}
    """Print credentials of the user with these claims, and a line of JavaScript that connects."""
# {% endif %}
    settings = Settings.load()
    try:
        handshake = await credentials(settings, user, **parse(claims))
    except (TypeError, ValueError) as failure:
        sys.exit(f"error: CLAIMS: {failure}")
# {% else %}


async def main(user: str = "alice") -> None:
# {% if cookiecutter.auth == "none" %}
    """Print a line of JavaScript that connects."""
# {% else %}
    """Print credentials of the user, and a line of JavaScript that connects with them."""
# {% endif %}
    settings = Settings.load()
    handshake = await credentials(settings, user)
# {% endif %}
# {% if cookiecutter.auth != "none" %}
    print(handshake.token)
# {% endif %}
# {% if cookiecutter.auth == "jwt" %}
    if settings.environment == "development":  # otherwise the page is off
        print(f"{base_url(settings)}/#token={handshake.token}")
# {% endif %}
    print(javascript(websocket_url(settings), handshake.token))


if __name__ == "__main__":
    # {% if cookiecutter.auth == "ticket" %}
    try:
        asyncio.run(main(*sys.argv[1:]))
    except ConnectionError as failure:
        sys.exit(f"error: {failure}; is it running? (make run)")
    # {% else %}
    asyncio.run(main(*sys.argv[1:]))
    # {% endif %}
