"""Run the service: ``python -m app``."""

from .main import app
from .realtime import serve

if __name__ == "__main__":
    serve(app)
