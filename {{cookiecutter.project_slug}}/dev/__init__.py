"""Tools for development: a first `.env`, credentials for trying things, a client. Not shipped."""

# {% if cookiecutter.auth == "jwt" %}
from .credentials_jwt import credentials, fresh_secrets, javascript
# {% elif cookiecutter.auth == "ticket" %}
from .credentials_ticket import credentials, fresh_secrets, javascript
# {% elif cookiecutter.auth == "session" %}
from .credentials_session import credentials, fresh_secrets, javascript
# {% elif cookiecutter.auth == "api_key" %}
from .credentials_api_key import credentials, fresh_secrets, javascript
# {% elif cookiecutter.auth == "none" %}
from .credentials_none import credentials, fresh_secrets, javascript
# {% endif %}

__all__ = ["credentials", "fresh_secrets", "javascript"]
