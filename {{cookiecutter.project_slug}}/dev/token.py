"""Print JavaScript that connects, with credentials if needed: ``python -m dev.token alice``."""

import asyncio
# {% if cookiecutter.auth in ["jwt", "session"] %}
import json
# {% endif %}
import sys

from app.settings import Settings

from . import credentials, javascript
from .urls import base_url, websocket_url
# {% if cookiecutter.auth in ["jwt", "session"] %}


async def main(user: str, claims: str = "{}") -> None:
# {% if cookiecutter.auth == "jwt" %}
    """Print a token of the user with these claims, a link to the page, and JavaScript."""
# {% else %}
    """Print credentials of the user with these claims, and a line of JavaScript that connects."""
# {% endif %}
    settings = Settings.load()
    url = base_url(settings)
    try:
        handshake = await credentials(settings, url, user, **json.loads(claims))
    except (TypeError, ValueError):
        sys.exit(f"error: CLAIMS is not a JSON object: {claims}")
# {% else %}


async def main(user: str = "alice") -> None:
# {% if cookiecutter.auth == "none" %}
    """Print a line of JavaScript that connects."""
# {% else %}
    """Print credentials of the user, and a line of JavaScript that connects with them."""
# {% endif %}
    settings = Settings.load()
    url = base_url(settings)
    handshake = await credentials(settings, url, user)
# {% endif %}
# {% if cookiecutter.auth != "none" %}
    print(handshake.token)
# {% endif %}
# {% if cookiecutter.auth == "jwt" %}
    print(f"{url}/#token={handshake.token}")
# {% endif %}
    print(javascript(websocket_url(url), handshake.token))


if __name__ == "__main__":
    # {% if cookiecutter.auth == "ticket" %}
    try:
        asyncio.run(main(*sys.argv[1:]))
    except ConnectionError as failure:
        sys.exit(f"error: {failure}; is it running? (make run)")
    # {% else %}
    asyncio.run(main(*sys.argv[1:]))
    # {% endif %}
