"""The engine alone: with its default policy, and without the files that you edit.

``python -m tests.realtime.engine`` serves it, as ``python -m app`` serves yours.
"""

from typing import Any

from app.realtime import Application, CommandRouter, Policy, RealtimeSettings, serve
# {% if cookiecutter.auth == "api_key" %}
from app.realtime.auth import ApiKeyAuthenticator as Authenticator
# {% elif cookiecutter.auth == "jwt" %}
from app.realtime.auth import JwtAuthenticator as Authenticator
# {% elif cookiecutter.auth == "none" %}
from app.realtime.auth import GuestAuthenticator as Authenticator
# {% elif cookiecutter.auth == "session" %}
from app.realtime.auth import SessionAuthenticator as Authenticator
# {% elif cookiecutter.auth == "ticket" %}
from app.realtime.auth import TicketAuthenticator as Authenticator
# {% endif %}


def make_app(
    settings: RealtimeSettings,
    *,
    policy: Policy | None = None,
    commands: CommandRouter | None = None,
    **options: Any,
) -> Application:
    """Return an application without any of your files."""
    return Application(
        settings,
        authenticator=Authenticator(settings),
        policy=policy or Policy(),
        commands=commands,
        **options,
    )


if __name__ == "__main__":
    serve(make_app(RealtimeSettings.load()))
