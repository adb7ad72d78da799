"""Health for orchestrators, and metrics for Prometheus."""

import structlog
# {% if cookiecutter.redis %}
from fastapi import HTTPException, Request, Response, status
# {% else %}
from fastapi import Request, Response, status
# {% endif %}
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import PlainTextResponse

from ..policy import settled
from ..service import Service
from .dependencies import KEY_REFUSALS, ServiceDep, engine_router, guarded, require_key
from .request_log import REASON

READY_TIMEOUT_S = 2.0
"""Time limit of your own readiness check."""

log = structlog.stdlib.get_logger(__name__)

router = engine_router(tags=["health"])


@router.get("/livez")
@router.head("/livez", include_in_schema=False)
async def liveness() -> dict[str, str]:
    """Answer as long as the event loop runs."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "The service accepts no new connections"}})
@router.head("/readyz", include_in_schema=False)
async def readiness(request: Request, service: ServiceDep, response: Response) -> dict[str, str]:
    """Return whether the service can accept new connections."""
    problem = await _find_problem(service)
    if problem is not None:
        request.scope[REASON] = problem
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return {"status": problem or "ready"}


async def _find_problem(service: Service) -> str | None:
    if not service.started:
        return "not started"
    if service.stopping:
        return "draining"
    if await service.delivery.is_stalled():
        return "send path stalled"
    if not service.backplane.healthy:
        return "backplane lost"
    try:
        with guarded(READY_TIMEOUT_S):
            is_ready = service.is_ready is None or await settled(service.is_ready())
    except Exception:
        log.exception("readiness check failed")
        is_ready = False
    return None if is_ready else "resources not ready"


@router.get(
    "/metrics",
    dependencies=[require_key("metrics_key")],
    response_class=PlainTextResponse,
    responses=KEY_REFUSALS,
)
# {% if cookiecutter.redis %}
async def metrics(request: Request, service: ServiceDep) -> Response:
    """Return the metrics of this process, and of your own code, for Prometheus."""
    _, port = request.scope.get("server") or (None, None)
    if service.metrics.port not in (None, port):
        # The shared port reaches a different process each time.
        detail = "each process has its own metrics: ask the ports PORT + 1 to PORT + WORKERS"
        raise HTTPException(status.HTTP_421_MISDIRECTED_REQUEST, detail)
# {% else %}
async def metrics(service: ServiceDep) -> Response:
    """Return the metrics of this process, and of your own code, for Prometheus."""
# {% endif %}
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
