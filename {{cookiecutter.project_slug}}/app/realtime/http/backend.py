"""The routes of your backend: publish to clients, disconnect a user."""

import asyncio
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Request, status
from pydantic import BaseModel

# {% if not cookiecutter.rooms %}
from ..backplane import Publication
# {% endif %}
from ..errors import TimedOut
from ..idempotency import KeyReused, UnderWay, once
from ..protocol import STRICT, UserName
# {% if cookiecutter.rooms %}
from ..rooms.rooms import RoomPublication as Publication
# {% endif %}
from ..service import Service
from .body import described, parse
from .dependencies import KEY_REFUSALS, ServiceDep, require_backend_key
from .errors import RETRY_SOON

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=128, pattern="^[!-~]+$")]

FAILURES: dict[int | str, dict[str, Any]] = {
    **KEY_REFUSALS,
    422: {"description": "The body, or the `Idempotency-Key`, is not valid"},
    503: {"description": "Messages cannot be passed on; repeat the request after `Retry-After`"},
}

router = APIRouter(dependencies=[Depends(require_backend_key)], responses=FAILURES)


@router.post(
    "/publish",
    status_code=status.HTTP_202_ACCEPTED,
    responses={409: {"description": "A request with this `Idempotency-Key` is being carried out"}},
    openapi_extra=described(Publication),
)
async def publish(
    request: Request, service: ServiceDep, idempotency_key: IdempotencyKey = None
) -> dict[str, str]:
    """Send data to clients. With an ``Idempotency-Key``, a repeated request is sent once."""
    publication = await parse(Publication, request)
    fingerprint = sha256(await request.body()).hexdigest()
    try:
        async with once(service.claims, idempotency_key, fingerprint) as is_first:
            if is_first:
                async with asyncio.timeout(service.settings.handler_timeout_s):
                    await _send(service, publication)
    except TimeoutError as failure:  # of a policy that waits
        raise TimedOut from failure
    except UnderWay as failure:
        msg = "the same request is being carried out; repeat it in a moment"
        raise HTTPException(status.HTTP_409_CONFLICT, msg, RETRY_SOON) from failure
    except KeyReused as failure:
        msg = "this Idempotency-Key was used for another request; make a new one for each"
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, msg) from failure
    return {"status": "accepted"}


async def _send(service: Service, publication: Publication) -> None:
    # {% if cookiecutter.rooms %}
    if publication.room is not None:
        await service.rooms.publish(publication.room, publication.data)
        return
    # {% endif %}
    if publication.user is not None:
        await service.manager.send_to_user(publication.user, publication.data)
    else:
        await service.manager.broadcast(publication.data)


class Disconnection(BaseModel):
    """Whose connections are to end."""

    model_config = STRICT

    user: UserName


@router.post(
    "/disconnect", status_code=status.HTTP_202_ACCEPTED, openapi_extra=described(Disconnection)
)
async def disconnect(request: Request, service: ServiceDep) -> dict[str, str]:
    """Close every connection of a user, on every node."""
    disconnection = await parse(Disconnection, request)
    await service.manager.disconnect(disconnection.user)
    return {"status": "accepted"}
