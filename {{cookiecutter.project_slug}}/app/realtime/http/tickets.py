"""``POST /tickets``: your backend requests a ticket for one of its users."""

from fastapi import APIRouter, Depends, Request, Response, status
from pydantic import BaseModel

from ..auth.identity import authenticating
from ..auth.ticket import Ticket
from ..protocol import STRICT, UserName
from .body import described, parse
from .dependencies import KEY_REFUSALS, ServiceDep, guarded, require_backend_key

router = APIRouter(dependencies=[Depends(require_backend_key)], responses=KEY_REFUSALS)


class TicketRequest(BaseModel):
    """The user whom the ticket is for."""

    model_config = STRICT

    user: UserName


@router.post(
    "/tickets", status_code=status.HTTP_201_CREATED, openapi_extra=described(TicketRequest)
)
async def issue_ticket(request: Request, service: ServiceDep, response: Response) -> Ticket:
    """Return a ticket for one connection: ``/ws?ticket=…``."""
    response.headers["Cache-Control"] = "no-store"
    wanted = await parse(TicketRequest, request)
    with authenticating(), guarded(service.settings.handshake_timeout_s):
        return await service.authenticator.issue(wanted.user)
