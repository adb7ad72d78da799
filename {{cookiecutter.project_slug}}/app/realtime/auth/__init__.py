"""Authentication: the chosen style, its settings, and the identity that it yields."""

# {% if cookiecutter.auth == "api_key" %}
from .api_key import ApiKeyAuthenticator, AuthSettings
# {% elif cookiecutter.auth == "none" %}
from .guest import AuthSettings, GuestAuthenticator
# {% endif %}
from .identity import Authenticator, Identity
# {% if cookiecutter.auth == "jwt" %}
from .jwt import AuthSettings, JwtAuthenticator
# {% elif cookiecutter.auth == "session" %}
from .session import AuthSettings, SessionAuthenticator
# {% elif cookiecutter.auth == "ticket" %}
from .ticket import AuthSettings, TicketAuthenticator
# {% endif %}

__all__ = [
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
