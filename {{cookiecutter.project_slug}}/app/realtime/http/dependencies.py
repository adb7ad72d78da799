"""Dependencies of routes: the service, the user, and the keys of backend and monitoring."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from hmac import compare_digest
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPBearer
from pydantic import SecretStr

from ..auth import CREDENTIALS, Identity
from ..auth.identity import authenticating
from ..connections.guard import Guard
from ..service import Service

BackendKey = Annotated[object, Security(HTTPBearer(scheme_name="BACKEND_KEY", auto_error=False))]
MetricsKey = Annotated[object, Security(HTTPBearer(scheme_name="METRICS_KEY", auto_error=False))]
"""The fields for the keys in `/docs`; `_require` checks them."""

KEY_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The key is missing or wrong"},
    404: {"description": "The key is not set, so the route is off"},
}


def get_service(request: Request) -> Service:
    """Return the running service."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


@contextmanager
def guarded(timeout_s: float) -> Iterator[None]:
    """Run the team's code in this context, as connections do.

    Raises:
        TimedOut: it did not return in time.
        TeamCodeFailed: it raised a `CancelledError` or `SystemExit` of its own.

    """
    with closing(Guard(timeout_s)) as guard, guard:
        yield


async def current_user(
    request: Request, service: ServiceDep, credentials: Annotated[object, Security(CREDENTIALS)]
) -> Identity:
    """Return the user who sends the request, by the same credentials as a connection's.

    Raises:
        Unauthorized: the credentials are missing or invalid; answered with 401.
        AuthenticatorDown: they cannot be checked now; answered with 503.

    """
    with authenticating(), guarded(service.settings.handshake_timeout_s):
        return await service.authenticator.authenticate(request)


CurrentUser = Annotated[Identity, Depends(current_user)]
"""The type of a route's parameter for the user who sends the request."""


def require_backend_key(request: Request, service: ServiceDep, key: BackendKey) -> None:
    """Accept requests with the key of your backend only.

    Raises:
        HTTPException: 404 if no ``BACKEND_KEY`` is set, 401 if the request has not got it.

    """
    _require(service.settings.backend_key, request)


def require_metrics_key(request: Request, service: ServiceDep, key: MetricsKey) -> None:
    """Accept requests with the key of your monitoring only.

    Raises:
        HTTPException: 404 if no ``METRICS_KEY`` is set, 401 if the request has not got it.

    """
    _require(service.settings.metrics_key, request)


def _require(key: SecretStr | None, request: Request) -> None:
    if key is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND)
    expected = f"Bearer {key.get_secret_value()}"
    presented = request.headers.get("authorization", "")
    if not compare_digest(presented.encode(), expected.encode()):
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
