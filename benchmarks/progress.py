"""Progress: one changing line on a terminal, otherwise a line for each measurement."""

import shutil
import sys
import time
from typing import TextIO


class Progress:
    """Reports the current measurement and the total."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._done = 0
        self._stream = stream
        self._start = time.monotonic()

    def begin(self, what: str) -> None:
        """Report the next measurement."""
        if self._stream.isatty():
            self._change(self._line(self._done + 1, what))

    def end(self, what: str) -> None:
        """Report its result."""
        self._done += 1
        line = self._line(self._done, what)
        if self._stream.isatty():
            self._change(line)
        else:
            print(line, file=self._stream, flush=True)

    def say(self, line: str) -> None:
        """Print a permanent line."""
        self.clear()
        print(line, file=self._stream, flush=True)

    def clear(self) -> None:
        """Remove the changing line."""
        if self._stream.isatty():
            self._change("")

    def _line(self, number: int, what: str) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        width = len(str(self._total))
        return f"[{number:{width}}/{self._total}, {minutes}:{seconds:02}] {what}"

    def _change(self, line: str) -> None:
        columns = shutil.get_terminal_size().columns
        self._stream.write(f"\r\x1b[K{line[: columns - 1]}")
        self._stream.flush()
