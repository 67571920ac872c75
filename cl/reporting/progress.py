"""What a run or a study shows while it works: a bar over its steps in a terminal, and lines above it."""

import os
import sys
import time

from cl.reporting import screen

INTERVAL = 0.1  # seconds between two pictures of the bar
SHARE = 200  # a picture takes this part of the time between two at most,
LONGEST = 2.0  # but there is one every two seconds: on a busy machine a single picture may be interrupted for long


class Progress:
    """Bar and lines; there is no bar where `show` is False, or where errors do not go to a terminal.

    `note` stands at the end of the bar.
    """

    def __init__(self, title: str, total: int, done: int, show: bool, unit: str = "step"):
        self.total, self.done, self.note = total, done, ""
        self._bar, self._next = None, 0.0
        if show and sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
            from cl.reporting.bar import Bar

            self._bar = Bar(title, total, done, unit)
            self._draw()

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        if self._bar is not None and time.perf_counter() >= self._next:
            self._draw()

    def expect(self, more: int) -> None:
        """There will be so many more, or fewer, than was thought."""
        self.total += more

    def line(self, text: str) -> None:
        """A line above the bar."""
        screen.say(text)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self) -> None:
        started = time.perf_counter()
        self._bar.draw(self.total, self.done, self.note)
        ended = time.perf_counter()
        self._next = ended + min(LONGEST, max(INTERVAL, SHARE * (ended - started)))
