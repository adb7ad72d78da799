"""The engine's routers, and dependencies of routes: the service, the user, and the keys."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from hmac import compare_digest
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Security, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from ..auth import CREDENTIALS, Identity
from ..auth.identity import authenticating, check_identity
from ..connections.guard import Guard
# {% if cookiecutter.auth in ["jwt", "session"] %}
from ..errors import Forbidden, Refused, Unavailable
# {% else %}
from ..errors import Unavailable
# {% endif %}
from ..service import Service
from .errors import problems
from .request_log import REASON

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing (RFC 9110 §9.2.1)."""

KEY_REFUSALS = problems(
    {401: "The key is missing or wrong", 404: "The key is not set, so the route is off"}
)
BACKEND_REFUSALS = KEY_REFUSALS | problems(
    {
        422: "The request is not valid",
        503: "Something behind the service does not work now; repeat after `Retry-After`",
    }
)


def engine_router(**options: Any) -> APIRouter:
    """Return a router whose OpenAPI operations have its functions' names, for code generators."""
    return APIRouter(generate_unique_id_function=lambda route: route.name, **options)


async def get_service(request: HTTPConnection) -> Service:
    """Return the running service. A ``def`` would need a thread, and routes may occupy all of them.

    Raises:
        RuntimeError: the route is in another app, which does not know the service.
    """
    service: Service | None = getattr(request.app.state, "service", None)
    if service is None:
        raise RuntimeError("this app has no service: set its state.service to Application.service")
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


@contextmanager
def guarded(timeout_s: float) -> Iterator[None]:
    """Run the team's code in a `Guard`, as connections do; its docstring lists the exceptions."""
    with closing(Guard(timeout_s)) as guard, guard:
        yield


async def current_user(
    request: HTTPConnection,
    service: ServiceDep,
    credentials: Annotated[object, Security(CREDENTIALS)],
) -> Identity:
    """Return the user of a request, authenticated by the same credentials as a connection.

    Raises:
        Refused: the authenticator needs an origin, and the request's is not allowed; answered with
            403.
        Unauthorized: the credentials are missing, invalid or expired; answered with 401.
        Banned: the user is banned; answered with 403.
        Unavailable: they cannot be checked now; answered with 503.
    """
    is_safe = request.scope.get("method") in SAFE_METHODS  # a WebSocket has no method
    if service.authenticator.needs_origin and not is_safe:
        service.origins.check(request)
    try:
        with authenticating(), guarded(service.settings.handshake_timeout_s):
            identity = check_identity(await service.authenticator.authenticate(request))
            await service.check_ban(identity.user)
    except Unavailable as failure:
        request.scope[REASON] = failure.cause  # for the log, not for the client
        raise Unavailable("the credentials cannot be checked now") from failure
    return identity


CurrentUser = Annotated[Identity, Depends(current_user)]
"""The type of a route's parameter for the user who sends the request."""
# {% if cookiecutter.auth in ["jwt", "session"] %}


def check_page(request: HTTPConnection, service: Service) -> None:
    """Refuse pages of other origins. By DNS rebinding, such a page can become same-origin.

    Raises:
        Forbidden: the page's origin is not allowed.
    """
    if "origin" in request.headers:
        try:
            service.origins.check(request)
        except Refused as refusal:
            request.scope[REASON] = refusal.reason
            raise Forbidden("add the origin of this page to ALLOWED_ORIGINS") from refusal
# {% endif %}


def require_key(setting: str) -> Any:
    """Return a dependency that accepts only requests with the key in this setting.

    It answers 401 to other requests, and 404 to all while the key is not set.
    """
    scheme = HTTPBearer(scheme_name=setting.upper(), auto_error=False)

    async def check_key(
        request: HTTPConnection,
        service: ServiceDep,
        presented: Annotated[HTTPAuthorizationCredentials | None, Security(scheme)],
    ) -> None:
        key: SecretStr | None = getattr(service.settings, setting)
        if key is None:
            request.scope[REASON] = f"{setting.upper()} is not set"
            raise HTTPException(status.HTTP_404_NOT_FOUND)
        credentials = presented.credentials if presented else ""
        if not compare_digest(credentials.encode(), key.get_secret_value().encode()):
            request.scope[REASON] = f"{setting.upper()} is missing or wrong"
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "the key is missing or wrong",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return Depends(check_key)
