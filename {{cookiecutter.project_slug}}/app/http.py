"""HTTP beside the WebSocket: is the service alive, is it ready, and what does a backend publish."""

from collections.abc import Awaitable
from hmac import compare_digest
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Request, Response, status
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from .errors import Unavailable
from .protocol import STRICT, UserName
from .service import Service

RETRY_SOON = {"Retry-After": "1"}

M = TypeVar("M", bound=BaseModel)

router = APIRouter()


def get_service(request: Request) -> Service:
    """Return the parts of the running service."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


def require_backend_key(request: Request, service: ServiceDep) -> None:
    """Let the team's own backend pass.

    Raises:
        HTTPException: 404 while no ``BACKEND_KEY`` is set, 401 when another key is presented.

    """
    if service.settings.backend_key is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND)
    expected = f"Bearer {service.settings.backend_key.get_secret_value()}"
    presented = request.headers.get("authorization", "")
    if not compare_digest(presented.encode(), expected.encode()):
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})


async def parse(model: type[M], request: Request) -> M:
    """Return the request's body, by the rules of the wire: no NaN, no hurtful depth, no surplus.

    Raises:
        RequestValidationError: the body is something else; FastAPI answers 422.

    """
    try:
        return model.model_validate_json(await request.body())
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
    if not service.backplane.healthy:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "backplane lost"}
    return {"status": "ready"}


async def passed_on(message: Awaitable[object]) -> None:
    """Wait until a message is on its way to every node.

    Raises:
        HTTPException: 503, the backplane does not take it just now.

    """
    try:
        await message
    except Unavailable as failure:
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE, str(failure), RETRY_SOON
        ) from failure


for_backend = APIRouter(dependencies=[Depends(require_backend_key)])


@for_backend.post("/publish", status_code=status.HTTP_202_ACCEPTED)
async def publish(request: Request, service: ServiceDep) -> dict[str, str]:
    """Send data from the team's backend to clients."""
    publication = await parse(service.publication, request)
    await passed_on(service.publish(publication))
    return {"status": "accepted"}


class Disconnection(BaseModel):
    """Whose connections are to end."""

    model_config = STRICT

    user: UserName


@for_backend.post("/disconnect", status_code=status.HTTP_202_ACCEPTED)
async def disconnect(request: Request, service: ServiceDep) -> dict[str, str]:
    """Close every connection of a user, on every node."""
    disconnection = await parse(Disconnection, request)
    await passed_on(service.manager.disconnect(disconnection.user))
    return {"status": "accepted"}


router.include_router(for_backend)
