"""Run the service: ``python -m app``."""

import signal
import sys

if __name__ == "__main__":
    # Before the imports, which take seconds: process 1 of a container would ignore SIGTERM.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, frame: sys.exit())
    # A process that starts this one may block SIGINT until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    from .main import app
    from .realtime import serve

    serve(app)
