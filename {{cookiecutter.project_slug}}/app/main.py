"""The composition root: what the service consists of, and how its parts are joined."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .admission import Admission
from .application import Application
# {% if cookiecutter.auth == "jwt" %}
from .auth_jwt import AuthSettings, JwtAuthenticator, Keys, SharedSecret
# {% elif cookiecutter.auth == "ticket" %}
from .auth_ticket import AuthSettings, MemoryTickets, TicketAuthenticator, TicketStore
# {% if cookiecutter.redis %}
from .auth_ticket_redis import RedisTickets
# {% endif %}
# {% elif cookiecutter.auth == "session" %}
from .auth_session import AuthSettings, SessionAuthenticator
# {% elif cookiecutter.auth == "api_key" %}
from .auth_api_key import ApiKeyAuthenticator, AuthSettings
# {% elif cookiecutter.auth == "none" %}
from .auth_none import AuthSettings, GuestAuthenticator
# {% endif %}
from .backplane import Backplane, LocalBackplane
# {% if cookiecutter.redis %}
from .backplane_redis import RedisBackplane, Resync
from .client_redis import make_client
# {% endif %}
from .commands import CommandRouter
from .endpoint import Endpoint
from .errors import Rejected, Unavailable
from .flusher import Flusher
from .handlers import router as handlers
# {% if cookiecutter.auth == "jwt" %}
from .handlers_jwt import refresh_router
# {% endif %}
# {% if cookiecutter.rooms %}
from .handlers_rooms import router as room_handlers
# {% endif %}
# {% if cookiecutter.heartbeat %}
from .heartbeat import Heartbeat, HeartbeatSettings
# {% endif %}
# {% if cookiecutter.rooms %}
from .history import History, MemoryHistory
# {% if cookiecutter.redis %}
from .history_redis import RedisHistory
# {% endif %}
# {% endif %}
from .http import answer_rejected, answer_unavailable
from .http import router as http_routes
# {% if cookiecutter.auth == "session" %}
from .http_login import login_router
# {% elif cookiecutter.auth == "ticket" %}
from .http_tickets import tickets_router
# {% endif %}
from .idempotency import Claims, MemoryClaims
# {% if cookiecutter.redis %}
from .idempotency_redis import RedisClaims
# {% endif %}
from .jobs import Job, keep_running
# {% if cookiecutter.auth == "jwt" %}
from .jwks import JwkSet
# {% endif %}
from .manager import ConnectionManager
from .metrics import Metrics
from .origin import Origins
# {% if cookiecutter.rooms %}
from .presence import LocalPresence, Presence
# {% if cookiecutter.redis %}
from .presence_redis import LeaseSettings, RedisPresence
# {% endif %}
from .rooms import RoomPublication, Rooms, RoomSettings
# {% endif %}
from .service import Service
from .settings import Settings
# {% if cookiecutter.redis %}
from .settings_redis import RedisSettings
# {% endif %}


class ServiceSettings(
    AuthSettings,
    # {% if cookiecutter.rooms %}
    RoomSettings,
    # {% if cookiecutter.redis %}
    LeaseSettings,
    # {% endif %}
    # {% endif %}
    # {% if cookiecutter.heartbeat %}
    HeartbeatSettings,
    # {% endif %}
    # {% if cookiecutter.redis %}
    RedisSettings,
    # {% endif %}
    Settings,
):
    """Every setting of the service; each part explains its own."""


def create_app(settings: ServiceSettings, fail: Callable[[], None]) -> FastAPI:
    """Put the service together. It starts working in the app's lifespan.

    ``fail`` is called if it cannot go on, and has to stop the process. What this appends to
    ``background`` cannot be done without; a job of the team's own need not be essential.
    """
    commands = CommandRouter()
    commands.include(handlers)
    background: list[Job] = []

    metrics = Metrics()
    flusher = Flusher()
    backplane: Backplane = LocalBackplane()
    claims: Claims = MemoryClaims()
    # {% if cookiecutter.rooms %}
    history: History = MemoryHistory(settings)
    presence: Presence = LocalPresence(settings)
    # {% endif %}
    # {% if cookiecutter.redis %}
    redis = make_client(settings)
    if redis is not None:
        backplane = RedisBackplane(redis, settings, metrics, flusher)
        backplane.after_gap(lambda: manager.send_to_all(Resync()))
        background.append(Job(backplane.run, essential=True))
        claims = RedisClaims(redis)
        # {% if cookiecutter.rooms %}
        history = RedisHistory(backplane, settings)
        presence = RedisPresence(backplane, settings, settings.presence_lease_s)
        background += [Job(each.run, essential=True) for each in (history, presence)]
        # {% endif %}
    # {% endif %}
    manager = ConnectionManager(settings, backplane, flusher)
    # {% if cookiecutter.heartbeat %}
    background.append(Job(Heartbeat(settings, manager).run, essential=True))
    # {% endif %}
    # {% if cookiecutter.rooms %}
    commands.include(room_handlers)
    # {% endif %}

    # {% if cookiecutter.auth == "jwt" %}
    keys: Keys
    if settings.jwt_secret is not None:
        keys = SharedSecret(settings.jwt_secret)
    else:
        keys = JwkSet(settings)
        background.append(Job(keys.run, essential=True))
    authenticator = JwtAuthenticator(settings, keys)
    commands.include(refresh_router(authenticator))
    # {% elif cookiecutter.auth == "ticket" %}
    tickets: TicketStore = MemoryTickets()
    # {% if cookiecutter.redis %}
    if redis is not None:
        tickets = RedisTickets(redis)
    # {% endif %}
    authenticator = TicketAuthenticator(settings, tickets)
    # {% elif cookiecutter.auth == "session" %}
    authenticator = SessionAuthenticator(settings)
    # {% elif cookiecutter.auth == "api_key" %}
    authenticator = ApiKeyAuthenticator(settings)
    # {% elif cookiecutter.auth == "none" %}
    authenticator = GuestAuthenticator(settings)
    # {% endif %}

    metrics.watch("connections", "Connections now.", lambda: len(manager))
    # {% if cookiecutter.rooms %}
    rooms = Rooms(settings, history, presence, flusher)
    metrics.watch("rooms", "Rooms with members on this node.", lambda: len(rooms))
    # {% endif %}
    service = Service(
        settings=settings,
        admission=Admission(settings),
        origins=Origins(settings.allowed_origins, required=settings.origin_required),
        authenticator=authenticator,
        backplane=backplane,
        flusher=flusher,
        manager=manager,
        claims=claims,
        metrics=metrics,
        # {% if cookiecutter.rooms %}
        rooms=rooms,
        publication=RoomPublication,
        # {% endif %}
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        flusher.attach()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(keep_running(job, fail)) for job in background]
            yield
            for task in reversed(running):  # what was built on another stops before it
                task.cancel()
                await asyncio.wait([task])

    in_development = settings.environment == "development"
    app = Application(
        Endpoint(service, commands),
        lifespan=lifespan,
        docs_url="/docs" if in_development else None,
        redoc_url=None,
        openapi_url="/openapi.json" if in_development else None,
        max_body_size=settings.max_message_bytes,
    )
    app.state.service = service
    app.exception_handler(Rejected)(answer_rejected)
    app.exception_handler(Unavailable)(answer_unavailable)
    app.include_router(http_routes)
    # {% if cookiecutter.auth == "session" %}
    if in_development:
        app.include_router(login_router(settings, authenticator))
    # {% elif cookiecutter.auth == "ticket" %}
    app.include_router(tickets_router(authenticator))
    # {% endif %}
    return app
