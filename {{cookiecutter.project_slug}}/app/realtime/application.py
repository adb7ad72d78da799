"""The application: a FastAPI app with the WebSocket endpoint, the engine's routes and its jobs."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from .auth import Authenticator
# {% if cookiecutter.auth == "jwt" %}
from .commands import refresh
# {% endif %}
from .commands.messages import message_commands
# {% if cookiecutter.rooms %}
from .commands.rooms import room_commands
# {% endif %}
from .commands.router import CommandRouter
from .connections.delivery import Delivery
# {% if cookiecutter.heartbeat %}
from .connections.heartbeat import Heartbeat
# {% endif %}
from .endpoint.endpoint import Endpoint
from .errors import Refused
# {% if cookiecutter.auth == "jwt" %}
from .http import asyncapi, backend, health, tokens
# {% elif cookiecutter.auth == "session" %}
from .http import asyncapi, backend, health, login
# {% elif cookiecutter.auth == "ticket" %}
from .http import asyncapi, backend, health, tickets
# {% else %}
from .http import asyncapi, backend, health
# {% endif %}
from .http.body import BodyLimit
from .http.errors import add_error_handlers, problems
from .http.request_log import log_request
from .jobs import Job, running
from .metrics import Metrics
from .policy import Policy
# {% if cookiecutter.redis %}
from .redis.backplane import Resync
from .redis.shared import in_redis
# {% endif %}
from .service import Service, in_memory
from .settings.project import read_project
from .settings.settings import RealtimeSettings
from .tracing import HTTP, is_on

PATH = "/ws"

CLIENT = Path(__file__).parent / "client"
DOCS = Path(__file__).parent / "http" / "docs"
PAGE = Path(__file__).parent / "http" / "page"

CONTENT_SECURITY = (
    "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self'; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

TAGS = [
    {"name": "backend", "description": "For your backend, with `BACKEND_KEY`."},
    {"name": "health", "description": "For orchestrators and Prometheus."},
    # {% if cookiecutter.auth in ["jwt", "session"] %}
    {"name": "development", "description": "In development only."},
    # {% endif %}
]
"""The groups of the engine's routes in `/docs`, in this order."""


class RevalidatedFiles(StaticFiles):
    """Static files that browsers revalidate before each use: a deployment may change them."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return the file, or 304 to a browser that has it (RFC 9111 §5.2.2.4)."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Application(FastAPI):
    """A FastAPI app that serves WebSockets at ``/ws``.

    ``policy`` authorizes clients. ``commands`` adds your own commands and observers; a command
    replaces the built-in one with the same ``type``. ``resources`` returns a context manager that
    is open while the service runs, ``jobs`` run in the background, and ``/readyz`` calls ``ready``.
    These three are called with the service. All other options are passed to FastAPI.

    If the app has no middleware and no app-wide dependencies, connections skip FastAPI's routing.
    It would take a fifth of the time of a handshake, and 8 KiB of memory per connection.
    """

    def __init__(
        self,
        settings: RealtimeSettings,
        *,
        authenticator: Authenticator,
        policy: Policy[Any, Any],
        commands: CommandRouter | None = None,
        resources: Callable[[Any], AbstractAsyncContextManager[Any]] = nullcontext,
        jobs: Sequence[Job] = (),
        ready: Callable[[Any], Awaitable[bool]] | None = None,
        **options: Any,
    ) -> None:
        in_development = settings.environment == "development"
        project = read_project()
        defaults: dict[str, Any] = {
            "title": project.title,
            "version": project.version,
            "description": project.description,
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": "/openapi.json" if in_development else None,
            "openapi_tags": TAGS,
            "responses": problems({"4XX": "The request is refused"}),
            # A redirect would go to the host in the request, which the client chooses.
            "redirect_slashes": False,
            "telemetry": HTTP,
        }
        handlers = options.pop("exception_handlers", None) or {}
        self._lifespan = options.pop("lifespan", None) or (lambda app: nullcontext())
        super().__init__(**(defaults | options), lifespan=Application._run)
        self.failed = False
        """Whether the service has stopped because an essential job failed."""
        self.stop_server: Callable[[], None] = partial(signal.raise_signal, signal.SIGTERM)
        """Stops the server that runs the app. A server in a test replaces this function."""
        metrics = Metrics(project.version)
        delivery = Delivery(settings.max_unsent_total_bytes, settings.max_unsent_bytes)
        # {% if cookiecutter.redis %}
        shared = in_redis(
            settings, metrics, delivery, lambda: self.service.manager.send_to_node(Resync())
        ) or in_memory(settings)
        # {% else %}
        shared = in_memory(settings)
        # {% endif %}
        self.service = self.state.service = Service(
            settings, authenticator, shared, delivery, metrics
        )
        if ready is not None:
            self.service.is_ready = partial(ready, self.service)
        self._resources = resources
        self._engine_jobs = [
            # {% if cookiecutter.auth in ["jwt", "none"] %}
            Job(authenticator.run, essential=True),
            # {% endif %}
            *shared.jobs,
            # {% if cookiecutter.heartbeat %}
            Job(Heartbeat(settings, self.service.manager).run, essential=True),
            # {% endif %}
            Job(metrics.measure_loop_lag),
        ]
        self._team_jobs = [Job(partial(job.run, self.service), job.essential) for job in jobs]
        self._endpoint = Endpoint(self.service, self._all_commands(policy, commands), policy)
        self.add_api_websocket_route(PATH, self._endpoint.serve)
        self.router.default = self._refuse_path
        add_error_handlers(self, self._endpoint.dispatcher.failures)
        self.exception_handlers.update(handlers)
        self.include_router(health.router)
        first_replaceable = len(self.routes)
        self.include_router(backend.router)
        # {% if cookiecutter.auth == "ticket" %}
        authenticator.tickets = shared.make_map("ticket")
        self.include_router(tickets.router)
        # {% elif cookiecutter.auth == "jwt" %}
        if in_development:
            self.include_router(tokens.router)
        # {% elif cookiecutter.auth == "session" %}
        if in_development:
            self.include_router(login.router)
        # {% endif %}
        self._replaceable = self.routes[first_replaceable:]
        self.mount("/client", RevalidatedFiles(directory=CLIENT))
        if in_development:
            self._add_development_routes(with_docs="docs_url" not in options)

    def _add_development_routes(self, *, with_docs: bool) -> None:
        self.include_router(asyncapi.router)
        if with_docs:
            files = RevalidatedFiles(
                directory=DOCS, packages=[("fastapi_offline", "static")], html=True
            )
            self.add_route("/docs", lambda request: RedirectResponse("docs/"))
            self.add_route("/docs/ws", lambda request: RedirectResponse("ws/"))
            self.mount("/docs", files)
        page = [Mount("/page", RevalidatedFiles(directory=PAGE)), Route("/", _show_page)]
        self.router.routes += page
        self._replaceable += page

    def asyncapi(self, url: str) -> dict[str, Any]:
        """Return the AsyncAPI document of the WebSocket protocol, for a service with this URL."""
        document = asyncapi.describe(self._endpoint.router, self.service.settings, url, PATH)
        info = {"title": self.title, "version": self.version, "description": self.description}
        return {"info": info, **document}

    def _all_commands(self, policy: Policy[Any, Any], own: CommandRouter | None) -> CommandRouter:
        commands = CommandRouter()
        commands.include(message_commands(policy))
        # {% if cookiecutter.rooms %}
        self.service.rooms.set_policy(
            partial(policy.before_publish, self.service), partial(policy.room_options, self.service)
        )
        commands.include(room_commands(policy, self.service.metrics))
        # {% endif %}
        # {% if cookiecutter.auth == "jwt" %}
        commands.include(refresh.router)
        # {% endif %}
        if own is not None:
            commands.include(own, replace=True)
        return commands

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a WebSocket connection, an HTTP request, or the lifespan."""
        if self._is_shortcut(scope):
            scope["app"] = self  # as FastAPI does, like the root path
            scope["root_path"] = self.root_path or scope.get("root_path", "")
            await self._endpoint.serve(WebSocket(scope, receive, send))
        elif scope["type"] == "http":
            limited = BodyLimit(super().__call__, self.service.settings.max_message_bytes)
            await log_request(self, limited, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Order the routes before the first request."""
        self.router.routes.sort(key=self._rank)
        return super().build_middleware_stack()

    def _is_shortcut(self, scope: Scope) -> bool:
        if scope["type"] != "websocket" or self.user_middleware or self.router.dependencies:
            return False
        return bool(scope["path"].removeprefix(scope.get("root_path", "")) == PATH)

    async def _refuse_path(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            websocket = WebSocket(scope, receive, send)
            await self._endpoint.handshakes.refuse(websocket, Refused("no such path"))
        else:
            await self.router.not_found(scope, receive, send)

    def stop(self) -> None:
        """Stop the server because an essential job has failed; `serve` then exits with status 1."""
        is_stopping = self.failed or self.service.stopping
        self.failed = True
        if not is_stopping:  # a second signal would kill the process at once
            self.stop_server()

    def _rank(self, route: BaseRoute) -> tuple[bool, bool, bool]:
        # Order: fixed, the team's, the engine's replaceable ones, those at /. See extending.md.
        is_at_root = getattr(route, "path", None) in {"", "/"}
        return is_at_root, route in self._replaceable, is_at_root and isinstance(route, Mount)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Any]:
        self.service.delivery.attach()
        if is_on():
            self._endpoint.dispatcher.trace()
        self.router.routes.sort(key=self._rank)
        resources = self._resources(self.service)
        async with (  # each part stops before those that it uses
            running(self._engine_jobs, self.stop),
            self._lifespan(self) as state,
            resources as self.service.resources,
            running(self._team_jobs, self.stop),
        ):
            self.service.started = True
            try:
                yield state
            finally:
                self.service.started = False


async def _show_page(_: Request) -> FileResponse:
    headers = {"Content-Security-Policy": CONTENT_SECURITY, "Cache-Control": "no-cache"}
    return FileResponse(PAGE / "index.html", headers=headers)
