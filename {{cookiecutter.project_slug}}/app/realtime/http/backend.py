"""The routes of your backend: publish to clients, disconnect a user."""

from asyncio import Future
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Request, status

# {% if not cookiecutter.rooms %}
from ..backplane import Publication
# {% endif %}
from ..idempotency import InProgress, KeyReused, send_once
# {% if cookiecutter.rooms %}
from ..rooms.rooms import RoomName
from ..rooms.rooms import RoomPublication as Publication
# {% endif %}
from ..service import Service
# {% if cookiecutter.rooms %}
from .body import Disconnection, Eviction, described, parse
# {% else %}
from .body import Disconnection, described, parse
# {% endif %}
from .dependencies import KEY_REFUSALS, ServiceDep, guarded, require_key
from .errors import RETRY_SOON

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=128, pattern="^[!-~]+$")]

FAILURES: dict[int | str, dict[str, Any]] = {
    **KEY_REFUSALS,
    422: {"description": "The body, or the `Idempotency-Key`, is not valid"},
    503: {"description": "Messages cannot be sent now; repeat the request after `Retry-After`"},
}

router = APIRouter(dependencies=[require_key("backend_key")], responses=FAILURES)


@router.post(
    "/publish",
    status_code=status.HTTP_202_ACCEPTED,
    responses={409: {"description": "A request with this `Idempotency-Key` is in progress"}},
    openapi_extra=described(Publication),
)
async def publish(
    request: Request, service: ServiceDep, idempotency_key: IdempotencyKey = None
) -> dict[str, str]:
    """Send data to clients. With an ``Idempotency-Key``, a repeated request is sent once."""
    publication = await parse(Publication, request)
    send = partial(_send, service, publication)
    timeout_s = service.settings.handler_timeout_s
    try:
        with guarded(timeout_s):
            if idempotency_key is None:
                await (await send())
            else:
                await send_once(service.claims, idempotency_key, publication, send, timeout_s)
    except InProgress as failure:
        detail = "the same request is in progress; repeat it in a moment"
        raise HTTPException(status.HTTP_409_CONFLICT, detail, RETRY_SOON) from failure
    except KeyReused as failure:
        detail = "this Idempotency-Key was used for another request; make a new one for each"
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, detail) from failure
    return {"status": "accepted"}


async def _send(service: Service, publication: Publication) -> Future[Any]:
    # {% if cookiecutter.rooms %}
    if publication.room is not None:
        room, data = publication.room, publication.data
        return await service.rooms.pass_on(room, data, sender=None, exclude=None, keep=True)
    # {% endif %}
    if publication.user is not None:
        return service.manager.send_to_user(publication.user, publication.data)
    return service.manager.broadcast(publication.data)


@router.post(
    "/disconnect", status_code=status.HTTP_202_ACCEPTED, openapi_extra=described(Disconnection)
)
async def disconnect(request: Request, service: ServiceDep) -> dict[str, str]:
    """Close every connection of a user, on every node, and ban the user for ``ban_s``."""
    body = await parse(Disconnection, request)
    if body.ban_s is None:
        await service.manager.disconnect(body.user)
    else:
        await service.ban(body.user, body.ban_s)
    return {"status": "accepted"}
# {% if cookiecutter.rooms %}


@router.post(
    "/rooms/{room}/evict", status_code=status.HTTP_202_ACCEPTED, openapi_extra=described(Eviction)
)
async def evict(request: Request, service: ServiceDep, room: RoomName) -> dict[str, str]:
    """Take every connection of a user out of a room, on every node, and tell it the reason."""
    body = await parse(Eviction, request)
    await service.rooms.evict(room, body.user, body.reason)
    return {"status": "accepted"}
# {% endif %}
