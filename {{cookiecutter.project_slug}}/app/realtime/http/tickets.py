"""``POST /tickets``: your backend requests a ticket for one of its users."""

from fastapi import Request, Response, status

from ..auth.identity import authenticating
from ..auth.ticket import Ticket
from .body import UserBody, described, parse
from .dependencies import BACKEND_REFUSALS, ServiceDep, engine_router, guarded, require_key

router = engine_router(
    tags=["backend"], dependencies=[require_key("backend_key")], responses=BACKEND_REFUSALS
)


@router.post("/tickets", status_code=status.HTTP_201_CREATED, openapi_extra=described(UserBody))
async def issue_ticket(request: Request, service: ServiceDep, response: Response) -> Ticket:
    """Return a ticket for one connection: ``/ws?ticket=…``."""
    response.headers["Cache-Control"] = "no-store"
    body = await parse(UserBody, request)
    with authenticating(), guarded(service.settings.handshake_timeout_s):
        return await service.authenticator.issue(body.user)
