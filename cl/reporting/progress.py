"""What a run shows while it trains: a bar over its steps, and one line per task."""

import sys

from tqdm import tqdm


class Progress:
    """Bar and lines of one run; `show` False keeps the lines only."""

    def __init__(self, title: str, total_steps: int, done_steps: int, show: bool):
        # Into a file each update is a piece of text for good, so there the bar is written every 10 seconds only.
        self.terminal = sys.stderr.isatty()
        interval = 0.1 if self.terminal else 10
        self.bar = tqdm(
            total=total_steps, initial=done_steps, desc=title, unit="step", disable=not show, mininterval=interval,
            leave=False, dynamic_ncols=True,
        )  # fmt: skip
        self.step = self.bar.update

    def expect(self, more_steps: int) -> None:
        """The run will have this many steps more, or fewer, than was thought."""
        if more_steps:
            self.bar.total += more_steps

    def line(self, text: str) -> None:
        """A line above the bar."""
        if self.terminal:
            self.bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def close(self) -> None:
        self.bar.close()
