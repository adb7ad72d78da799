"""Run the service: ``python -m app``."""

import signal
import sys

if __name__ == "__main__":
    # Before the imports, which take seconds: process 1 of a container would ignore SIGTERM.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, frame: sys.exit())
    # {% if cookiecutter.redis %}
    # Whoever starts several processes blocks it until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # {% endif %}

    from .main import app
    from .realtime import serve

    serve(app)
