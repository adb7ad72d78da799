"""Run the service: ``python -m app``."""

from .server import main

if __name__ == "__main__":
    main()
