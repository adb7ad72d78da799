"""HTTP beside the WebSocket: is the service alive, ready and well, and what a backend publishes."""

from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response, status
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from ..auth import Identity
from ..errors import Rejected, Unavailable
from ..idempotency import KeyReused, UnderWay, once
from ..protocol import STRICT, UserName
from ..service import Service

RETRY_SOON = {"Retry-After": "1"}

M = TypeVar("M", bound=BaseModel)

router = APIRouter()


def get_service(request: Request) -> Service:
    """Return the parts of the running service."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


async def current_user(request: Request, service: ServiceDep) -> Identity:
    """Return who sends a request, by the same credentials as a connection's.

    Raises:
        Unauthorized: they are missing or invalid; answered by 401.

    """
    return await service.authenticator.authenticate(request)


CurrentUser = Annotated[Identity, Depends(current_user)]
"""The type of a route's parameter that is the user who sends the request."""


def require_backend_key(request: Request, service: ServiceDep) -> None:
    """Let the team's own backend pass.

    Raises:
        HTTPException: 404 while no ``BACKEND_KEY`` is set, 401 when another key is presented.

    """
    _require(service.settings.backend_key, request)


def require_metrics_key(request: Request, service: ServiceDep) -> None:
    """Let the team's monitoring pass.

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


async def parse(model: type[M], request: Request) -> M:
    """Return the request's body, by the rules of the wire: no NaN, no hurtful depth, no surplus.

    Raises:
        RequestValidationError: the body is something else; FastAPI answers 422.
        HTTPException: 400 if the client left before it was all there, for nobody to read.

    """
    try:
        return model.model_validate_json(await request.body())
    except ClientDisconnect as failure:
        raise HTTPException(status.HTTP_400_BAD_REQUEST) from failure
    except ValidationError as failure:
        errors = failure.errors(include_input=False, include_context=False)
        raise RequestValidationError(errors) from failure


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Answer as long as the event loop turns."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(service: ServiceDep, response: Response) -> dict[str, str]:
    """Say whether new connections are welcome."""
    if service.manager.draining:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "draining"}
    if await service.flusher.is_stalled():
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "send path stalled"}
    if not service.backplane.healthy:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "backplane lost"}
    return {"status": "ready"}


@router.get("/metrics", dependencies=[Depends(require_metrics_key)])
async def metrics(service: ServiceDep) -> Response:
    """Tell Prometheus what this node counts."""
    return Response(service.metrics.text(), media_type=service.metrics.content_type)


async def answer_unavailable(request: Request, failure: Unavailable) -> Response:
    """Answer a request that cannot be carried out just now."""
    return JSONResponse({"detail": str(failure)}, status.HTTP_503_SERVICE_UNAVAILABLE, RETRY_SOON)


async def answer_rejected(request: Request, rejection: Rejected) -> Response:
    """Answer a request that the authenticator refuses, with 401, or cannot check, with 503."""
    is_unauthorized = rejection.status == status.HTTP_401_UNAUTHORIZED
    headers = {"WWW-Authenticate": "Bearer"} if is_unauthorized else RETRY_SOON
    return JSONResponse({"detail": rejection.close_as.reason}, rejection.status, headers)


IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=128, pattern="^[!-~]+$")]

for_backend = APIRouter(dependencies=[Depends(require_backend_key)])


@for_backend.post("/publish", status_code=status.HTTP_202_ACCEPTED)
async def publish(
    request: Request, service: ServiceDep, idempotency_key: IdempotencyKey = None
) -> dict[str, str]:
    """Send data from the team's backend to clients; with an ``Idempotency-Key``, only once."""
    publication = await parse(service.publication, request)
    fingerprint = sha256(await request.body()).hexdigest()
    try:
        async with once(service.claims, idempotency_key, fingerprint) as is_first:
            if is_first:
                await service.publish(publication)
    except UnderWay as failure:
        msg = "the same request is being carried out; repeat it in a moment"
        raise HTTPException(status.HTTP_409_CONFLICT, msg, RETRY_SOON) from failure
    except KeyReused as failure:
        msg = "this Idempotency-Key was used for another request; make a new one for each"
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, msg) from failure
    return {"status": "accepted"}


class Disconnection(BaseModel):
    """Whose connections are to end."""

    model_config = STRICT

    user: UserName


@for_backend.post("/disconnect", status_code=status.HTTP_202_ACCEPTED)
async def disconnect(request: Request, service: ServiceDep) -> dict[str, str]:
    """Close every connection of a user, on every node."""
    disconnection = await parse(Disconnection, request)
    await service.manager.disconnect(disconnection.user)
    return {"status": "accepted"}


router.include_router(for_backend)
