"""Health and metrics: what orchestrators and Prometheus ask for."""

import asyncio

import structlog
from fastapi import APIRouter, Depends, Response, status

from ..service import Service
from .dependencies import KEY_REFUSALS, ServiceDep, require_metrics_key

READY_TIMEOUT_S = 2.0
"""How long your own readiness check may take."""

log = structlog.stdlib.get_logger(__name__)

router = APIRouter()


@router.get("/livez")
@router.head("/livez", include_in_schema=False)
async def livez() -> dict[str, str]:
    """Answer as long as the event loop turns."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "New connections should go elsewhere"}})
@router.head("/readyz", include_in_schema=False)
async def readyz(service: ServiceDep, response: Response) -> dict[str, str]:
    """Return whether the service can take new connections."""
    problem = await _problem(service)
    if problem is not None:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return {"status": problem or "ready"}


async def _problem(service: Service) -> str | None:
    if service.manager.draining:
        return "draining"
    if await service.delivery.is_stalled():
        return "send path stalled"
    if not service.backplane.healthy:
        return "backplane lost"
    return None if await _resources_are_ready(service) else "resources not ready"


async def _resources_are_ready(service: Service) -> bool:
    if service.is_ready is None:
        return True
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await service.is_ready()
    except Exception:
        log.exception("readiness check failed")
        return False


@router.get("/metrics", dependencies=[Depends(require_metrics_key)], responses=KEY_REFUSALS)
async def metrics(service: ServiceDep) -> Response:
    """Return the metrics of this node, and of your own code, for Prometheus."""
    return Response(service.metrics.text(), media_type=service.metrics.content_type)
