# {% if cookiecutter.auth == "api_key" %}
"""Who is on the other side: clients have an API key. Adapt it to your users."""
# {% elif cookiecutter.auth == "jwt" %}
"""Who is on the other side: clients have a JSON Web Token. Adapt it to your users."""
# {% elif cookiecutter.auth == "none" %}
"""Who is on the other side: anybody, as a guest. Adapt it to your users."""
# {% elif cookiecutter.auth == "session" %}
"""Who is on the other side: browsers have a session cookie. Adapt it to your users."""
# {% elif cookiecutter.auth == "ticket" %}
"""Who is on the other side: clients have a ticket from your backend. Adapt it to your users."""
# {% endif %}

from starlette.requests import HTTPConnection

# {% if cookiecutter.auth == "api_key" %}
from .realtime.auth import ApiKeyAuthenticator, Identity
# {% elif cookiecutter.auth == "jwt" %}
from .realtime.auth import Identity, JwtAuthenticator
# {% elif cookiecutter.auth == "none" %}
from .realtime.auth import GuestAuthenticator, Identity
# {% elif cookiecutter.auth == "session" %}
from .realtime.auth import Identity, SessionAuthenticator
# {% elif cookiecutter.auth == "ticket" %}
from .realtime.auth import Identity, TicketAuthenticator
# {% endif %}


# {% if cookiecutter.auth == "api_key" %}
class Authenticator(ApiKeyAuthenticator):
    """Turns the credentials of a handshake, or of an HTTP request, into an identity."""
# {% elif cookiecutter.auth == "jwt" %}
class Authenticator(JwtAuthenticator):
    """Turns the credentials of a handshake, or of an HTTP request, into an identity."""
# {% elif cookiecutter.auth == "none" %}
class Authenticator(GuestAuthenticator):
    """Turns the credentials of a handshake, or of an HTTP request, into an identity."""
# {% elif cookiecutter.auth == "session" %}
class Authenticator(SessionAuthenticator):
    """Turns the credentials of a handshake, or of an HTTP request, into an identity."""
# {% elif cookiecutter.auth == "ticket" %}
class Authenticator(TicketAuthenticator):
    """Turns the credentials of a handshake, or of an HTTP request, into an identity."""
# {% endif %}

    async def authenticate(self, handshake: HTTPConnection) -> Identity:
        """Return who connects, or raise `Unauthorized`."""
        return await super().authenticate(handshake)
