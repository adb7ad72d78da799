"""How a trace passes through Redis: from what has caused a message to its deliveries."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..tracing import NAME

_propagator = TraceContextTextMapPropagator()


def current_trace() -> str | None:
    """Return the ``traceparent`` of the current span (W3C Trace Context), None without one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def delivering(kind: str, traceparent: str) -> Iterator[None]:
    """Make a span of a delivery, below the one that has caused it on some node."""
    context = _propagator.extract({"traceparent": traceparent}, Context())
    tracer, attributes = trace.get_tracer(NAME), {"ws.channel": kind}
    with tracer.start_as_current_span(
        "deliver", context, SpanKind.CONSUMER, attributes, record_exception=False
    ):
        yield
