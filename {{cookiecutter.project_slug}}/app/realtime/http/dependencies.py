"""What routes can ask for: the service, the user, and that a key was presented."""

from hmac import compare_digest
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPBearer
from pydantic import SecretStr

from ..auth import CREDENTIALS, Identity
from ..service import Service

BackendKey = Annotated[object, Security(HTTPBearer(scheme_name="BACKEND_KEY", auto_error=False))]
MetricsKey = Annotated[object, Security(HTTPBearer(scheme_name="METRICS_KEY", auto_error=False))]
"""The buttons in `/docs` to enter the keys; `_require` checks them."""

KEY_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No key was presented, or a wrong one"},
    404: {"description": "The key is not set, so the route is off"},
}


def get_service(request: Request) -> Service:
    """Return the running service."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


async def current_user(
    request: Request, service: ServiceDep, credentials: Annotated[object, Security(CREDENTIALS)]
) -> Identity:
    """Return who sends a request, by the same credentials as a connection's.

    Raises:
        Unauthorized: they are missing or invalid; answered by 401.

    """
    return await service.authenticator.authenticate(request)


CurrentUser = Annotated[Identity, Depends(current_user)]
"""The type of a parameter of a route: the user who sends the request."""


def require_backend_key(request: Request, service: ServiceDep, key: BackendKey) -> None:
    """Let your own backend pass.

    Raises:
        HTTPException: 404 while no ``BACKEND_KEY`` is set, 401 when another key is presented.

    """
    _require(service.settings.backend_key, request)


def require_metrics_key(request: Request, service: ServiceDep, key: MetricsKey) -> None:
    """Let your monitoring pass.

    Raises:
        HTTPException: 404 while no ``METRICS_KEY`` is set, 401 when another key is presented.

    """
    _require(service.settings.metrics_key, request)


def _require(key: SecretStr | None, request: Request) -> None:
    if key is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND)
    expected = f"Bearer {key.get_secret_value()}"
    presented = request.headers.get("authorization", "")
    if not compare_digest(presented.encode(), expected.encode()):
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
