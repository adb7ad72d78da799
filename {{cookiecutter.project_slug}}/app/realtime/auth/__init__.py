"""Authentication: its settings, and the identity that it yields.

Import from here the names that every kind of authentication defines; `identity` is common to all.
"""

# {% if cookiecutter.auth == "api_key" %}
from .api_key import CREDENTIALS, Authenticator, AuthSettings
# {% elif cookiecutter.auth == "none" %}
from .guest import CREDENTIALS, Authenticator, AuthSettings
# {% endif %}
from .identity import Identity
# {% if cookiecutter.auth == "jwt" %}
from .jwt import CREDENTIALS, Authenticator, AuthSettings
# {% elif cookiecutter.auth == "session" %}
from .session import CREDENTIALS, Authenticator, AuthSettings
# {% elif cookiecutter.auth == "ticket" %}
from .ticket import CREDENTIALS, Authenticator, AuthSettings
# {% endif %}

__all__ = ["CREDENTIALS", "AuthSettings", "Authenticator", "Identity"]
