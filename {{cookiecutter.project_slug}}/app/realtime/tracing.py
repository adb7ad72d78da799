"""Traces by OpenTelemetry: a span for each command.

Nothing is traced, and nothing costs time, until a tracer provider is set: see "Traces" in
`docs/operating.md`. Spans have no data, and no names of users.
"""

from asyncio import Future
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind, StatusCode

from .errors import CommandError, Rejected

NAME = "app.realtime"

PROBES = ("/livez", "/readyz", "/metrics")
"""Routes that machines ask all the time."""

Handle = Callable[[Any, Any, Any], Coroutine[Any, Any, Any]]


def _is_left_out(scope: MutableMapping[str, Any]) -> bool:
    return scope["type"] == "websocket" or scope["path"] in PROBES


HTTP = TelemetryConfig(metrics=False, logs=False, exclude=_is_left_out)
"""What FastAPI traces by itself: requests. A connection's span would last for hours."""


def is_on() -> bool:
    """Return whether a tracer provider is set."""
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)


def traced(handle: Handle) -> Handle:
    """Return a handler that makes a span of each command, which ends when it is answered."""
    tracer = trace.get_tracer(NAME)

    async def handle_traced(service: Any, connection: Any, command: Any) -> Any:
        attributes = {"ws.connection": connection.id}
        span = tracer.start_span(command.type, Context(), SpanKind.SERVER, attributes)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                answer = await handle(service, connection, command)
        except BaseException as failure:
            _end(span, failure)
            raise
        if isinstance(answer, Future):
            answer.add_done_callback(lambda done: _end(span, _failure_of(done)))
        else:
            _end(span, None)
        return answer

    return handle_traced


def _failure_of(done: Future[Any]) -> BaseException | None:
    return None if done.cancelled() else done.exception()


def _end(span: Span, failure: BaseException | None) -> None:
    if failure is not None:
        code = failure.code if isinstance(failure, CommandError) else type(failure).__name__
        span.set_attribute("error.type", code)
        if not isinstance(failure, CommandError | Rejected) or failure.status >= 500:
            span.set_status(StatusCode.ERROR)
    span.end()
