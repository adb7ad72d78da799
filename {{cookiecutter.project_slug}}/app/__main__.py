"""Run the service: ``python -m app``."""

import signal
import sys

if __name__ == "__main__":
    # Before the slow imports: without a handler, process 1 of a container ignores SIGTERM.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, frame: sys.exit())
    # The process that started this one may have blocked SIGINT until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    from .main import app
    from .realtime import serve

    serve(app)
