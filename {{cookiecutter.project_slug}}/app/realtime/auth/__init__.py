"""Authentication: the chosen style, its settings, and the identity that it yields."""

# {% if cookiecutter.auth == "api_key" %}
from .api_key import CREDENTIALS, ApiKeyAuthenticator, AuthSettings
# {% elif cookiecutter.auth == "none" %}
from .guest import CREDENTIALS, AuthSettings, GuestAuthenticator
# {% endif %}
from .identity import Authenticator, Identity
# {% if cookiecutter.auth == "jwt" %}
from .jwt import CREDENTIALS, AuthSettings, JwtAuthenticator
# {% elif cookiecutter.auth == "session" %}
from .session import CREDENTIALS, AuthSettings, SessionAuthenticator
# {% elif cookiecutter.auth == "ticket" %}
from .ticket import CREDENTIALS, AuthSettings, TicketAuthenticator
# {% endif %}

__all__ = [
    "CREDENTIALS",
    # {% if cookiecutter.auth == "api_key" %}
    "ApiKeyAuthenticator",
    # {% endif %}
    "AuthSettings",
    "Authenticator",
    # {% if cookiecutter.auth == "none" %}
    "GuestAuthenticator",
    # {% endif %}
    "Identity",
    # {% if cookiecutter.auth == "jwt" %}
    "JwtAuthenticator",
    # {% elif cookiecutter.auth == "session" %}
    "SessionAuthenticator",
    # {% elif cookiecutter.auth == "ticket" %}
    "TicketAuthenticator",
    # {% endif %}
]
