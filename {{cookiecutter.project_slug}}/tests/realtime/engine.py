"""Only the engine: with its default policy, without the files that you edit.

``python -m tests.realtime.engine`` serves it, as ``python -m app`` serves yours.
"""

from typing import Any

from app.realtime import Application, Authenticator, CommandRouter, Policy, RealtimeSettings, serve


def make_app(
    settings: RealtimeSettings,
    *,
    policy: Policy | None = None,
    commands: CommandRouter | None = None,
    **options: Any,
) -> Application:
    """Return an application without your files."""
    return Application(
        settings,
        authenticator=Authenticator(settings),
        policy=policy or Policy(),
        commands=commands,
        **options,
    )


if __name__ == "__main__":
    serve(make_app(RealtimeSettings.load()))
