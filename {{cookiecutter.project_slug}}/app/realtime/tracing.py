"""Traces by OpenTelemetry: a span for each command.

# {% if cookiecutter.redis %}
A message carries its trace through Redis, so its deliveries on all nodes belong to the trace, too.

# {% endif %}
Nothing is traced, and nothing costs time, until a tracer provider is set: see "Traces" in
`docs/operating.md`. Spans contain no message data and no user names.
"""

from asyncio import CancelledError, Future
# {% if cookiecutter.redis %}
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
# {% else %}
from collections.abc import Callable, Coroutine, MutableMapping
# {% endif %}
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind, StatusCode
# {% if cookiecutter.redis %}
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
# {% endif %}

from .errors import CommandError, Rejected

NAME = "app.realtime"

PROBES = ("/livez", "/readyz", "/metrics")
"""Routes that orchestrators and Prometheus poll."""

# {% if cookiecutter.redis %}
_propagator = TraceContextTextMapPropagator()

# {% endif %}
Handle = Callable[[Any, Any, Any], Coroutine[Any, Any, Any]]
Mapped = Callable[[BaseException | None], BaseException | None]


def _is_left_out(scope: MutableMapping[str, Any]) -> bool:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return scope["type"] == "websocket" or path in PROBES


HTTP = TelemetryConfig(metrics=False, logs=False, exclude=_is_left_out)
"""What FastAPI traces by itself: requests. A connection's span would last for hours."""


def is_on() -> bool:
    """Return whether a tracer provider is set."""
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)


def traced(handle: Handle, mapped: Mapped) -> Handle:
    """Return a handler that makes a span for each command. It ends when the command is answered.

    ``mapped`` returns the error to which a failure is mapped, or else the failure.
    """
    tracer = trace.get_tracer(NAME)

    async def handle_traced(service: Any, connection: Any, command: Any) -> Any:
        attributes = {"ws.connection": connection.id}
        span = tracer.start_span(command.type, Context(), SpanKind.SERVER, attributes)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                answer = await handle(service, connection, command)
        except BaseException as failure:
            _end(span, mapped(failure))
            raise
        if isinstance(answer, Future):
            answer.add_done_callback(lambda done: _end(span, mapped(_failure_of(done))))
        else:
            _end(span, None)
        return answer

    return handle_traced


def _failure_of(done: Future[Any]) -> BaseException | None:
    return CancelledError() if done.cancelled() else done.exception()


def _end(span: Span, failure: BaseException | None) -> None:
    if failure is not None:
        code = failure.code if isinstance(failure, CommandError) else type(failure).__name__
        span.set_attribute("error.type", code)
        if not isinstance(failure, CommandError | Rejected) or failure.status >= 500:
            span.set_status(StatusCode.ERROR)
    span.end()
# {% if cookiecutter.redis %}


def current_trace() -> str | None:
    """Return the ``traceparent`` of the current span (W3C Trace Context), None without one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def delivering(kind: str, traceparent: str) -> Iterator[None]:
    """Make a span of a delivery. Its parent is the span that caused it, perhaps on another node."""
    context = _propagator.extract({"traceparent": traceparent}, Context())
    tracer, attributes = trace.get_tracer(NAME), {"ws.channel": kind}
    with tracer.start_as_current_span(
        "deliver", context, SpanKind.CONSUMER, attributes, record_exception=False
    ):
        yield
# {% endif %}
