"""The routes of your backend: publish to clients, ask for a user, disconnect a user."""

from asyncio import Future
from functools import partial
from typing import Annotated, Any, Literal, Self

from fastapi import Header, Request, status
from pydantic import BaseModel, model_validator

from ..backplane import user_channel
from ..futures import then
from ..idempotency import send_once
from ..limits.budget import check_data_size
from ..protocol import STRICT, Data, UserName
# {% if cookiecutter.rooms %}
from ..rooms.rooms import RoomName
# {% endif %}
from ..service import Service
from .body import Disconnection, described, parse
from .dependencies import BACKEND_REFUSALS, ServiceDep, engine_router, guarded, require_key
from .errors import problems
# {% if cookiecutter.rooms %}
from .rooms import router as rooms_router
# {% endif %}

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=128, pattern="^[!-~]+$")]

IDEMPOTENCY_REFUSALS = problems(
    {
        409: "A request with this `Idempotency-Key` is in progress",
        422: "The request is not valid, or the `Idempotency-Key` was used for another",
    }
)


class Publication(BaseModel):
    # {% if cookiecutter.rooms %}
    """What your backend publishes: to a room, to a user, or to everybody."""
    # {% else %}
    """What your backend publishes: to a user, or to everybody."""
    # {% endif %}

    model_config = STRICT

    data: Data
    user: UserName | None = None
    # {% if cookiecutter.rooms %}
    room: RoomName | None = None
    # {% endif %}

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        # {% if cookiecutter.rooms %}
        targets = [self.room, self.user]
        if None not in targets:
            raise ValueError("name a room or a user, not both")
        if targets == [None, None] and self.model_fields_set & {"room", "user"}:
            raise ValueError("null is no target; leave out room and user to reach everybody")
        # {% else %}
        if self.user is None and "user" in self.model_fields_set:
            raise ValueError("null is no target; leave out user to reach everybody")
        # {% endif %}
        return self


class Published(BaseModel):
    # {% if cookiecutter.rooms %}
    """The answer to a publication.

    To a user or to everybody: ``reached``, the number of processes that got it. To a room:
    ``epoch`` and ``offset``, the position of the message. The others are absent.
    """
    # {% else %}
    """The answer to a publication. ``reached`` is the number of processes that got it."""
    # {% endif %}

    status: Literal["accepted"] = "accepted"
    reached: int | None = None
    # {% if cookiecutter.rooms %}
    epoch: str | None = None
    offset: int | None = None
    # {% endif %}


class UserState(BaseModel):
    """Whether a user has connections, and how many nodes have some."""

    online: bool
    nodes: int


router = engine_router(
    tags=["backend"], dependencies=[require_key("backend_key")], responses=BACKEND_REFUSALS
)
# {% if cookiecutter.rooms %}
router.include_router(rooms_router)
# {% endif %}


@router.post(
    "/publish",
    status_code=status.HTTP_202_ACCEPTED,
    responses=IDEMPOTENCY_REFUSALS,
    response_model_exclude_none=True,
    openapi_extra=described(Publication),
)
async def publish(
    request: Request, service: ServiceDep, idempotency_key: IdempotencyKey = None
) -> Published:
    """Send data to clients. With an ``Idempotency-Key``, a repeated request is carried out once."""
    publication = await parse(Publication, request)
    check_data_size(publication.data, service.settings.max_message_bytes)
    send = partial(_send, service, publication)
    timeout_s = service.settings.handler_timeout_s
    with guarded(timeout_s):
        if idempotency_key is None:
            return Published(**await (await send()))
        requests = service.backend_requests
        return Published(**await send_once(requests, idempotency_key, publication, send, timeout_s))


async def _send(
    service: Service, publication: Publication, message_id: str | None = None
) -> Future[dict[str, Any]]:
    data = publication.data
    # {% if cookiecutter.rooms %}
    if publication.room is not None:
        sent = await service.rooms.pass_on(publication.room, data, message_id=message_id)
        return then(sent, lambda at: {"epoch": at.epoch, "offset": at.offset})
    # {% endif %}
    if publication.user is not None:
        reached = service.manager.send_to_user(publication.user, data, message_id=message_id)
    else:
        reached = service.manager.broadcast(data, message_id=message_id)
    return then(reached, lambda count: {"reached": count})


@router.get("/users/{user:path}")
async def read_user(user: UserName, service: ServiceDep) -> UserState:
    """Tell whether a user has connections, and to how many nodes."""
    nodes = await service.backplane.count_nodes(user_channel(user))
    return UserState(online=nodes > 0, nodes=nodes)


@router.post(
    "/disconnect", status_code=status.HTTP_202_ACCEPTED, openapi_extra=described(Disconnection)
)
async def disconnect_user(request: Request, service: ServiceDep) -> dict[str, str]:
    """Close every connection of a user, and ban the user for ``ban_s``."""
    body = await parse(Disconnection, request)
    if body.ban_s is None:
        await service.manager.disconnect(body.user)
    else:
        await service.ban(body.user, body.ban_s)
    return {"status": "accepted"}
