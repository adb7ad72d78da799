"""The command lines of the proof and of the benchmark."""

import argparse
import sys
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message."""
        sys.exit(f"error: {message}")
