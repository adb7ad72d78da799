"""Run the service: ``python -m app``."""

import signal
import sys

if __name__ == "__main__":
    # Before the imports, which take seconds: process 1 of a container would ignore SIGTERM.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, frame: sys.exit())

    from .main import app
    from .realtime import serve

    serve(app)
