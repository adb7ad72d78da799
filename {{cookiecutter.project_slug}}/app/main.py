"""Assembles the service. Run it with ``python -m app`` or any ASGI server."""

from .auth import Authenticator
from .handlers import router as commands
from .policy import Policy
from .realtime import Application
from .resources import is_ready, jobs, open_resources
from .routes import router as routes
from .settings import Settings


def create_app(settings: Settings | None = None) -> Application:
    """Return the service. Add middleware, routers and exception handlers as to any FastAPI app."""
    settings = settings or Settings.load()
    app = Application(
        settings,
        authenticator=Authenticator(settings),
        policy=Policy(),
        commands=commands,
        resources=open_resources,
        jobs=jobs,
        ready=is_ready,
    )
    app.include_router(routes)
    return app


app = create_app()
