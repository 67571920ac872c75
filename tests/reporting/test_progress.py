"""A bar is drawn in terminals only and takes little of the time of what it shows; a study says lines elsewhere."""

import pytest

from cl.reporting import bar, progress
from merging.study import runs


class Clock:
    """Time that passes only when something is done."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", made)
    monkeypatch.setattr(progress.time, "monotonic", made)
    return made


@pytest.fixture
def drawn(monkeypatch, clock):
    """What a bar that takes `cost` seconds to draw was asked to show, and when."""
    found = []

    class Slow:
        cost = 0.0

        def __init__(self, *given):
            pass

        def draw(self, total, done, note):
            found.append((clock.now, total, done, note))
            clock.now += Slow.cost

        def close(self):
            pass

    monkeypatch.setattr(bar, "Bar", Slow)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    return found, Slow


@pytest.mark.parametrize("cost", [0.0001, 0.01])
def test_drawing_takes_at_most_a_two_hundredth_of_the_time(drawn, clock, cost):
    found, slow = drawn
    slow.cost = cost
    shown = progress.Progress("er", 10_000, 0, True)
    for _ in range(10_000):
        clock.now += 0.001
        shown.step()
    times = [now for now, *_ in found]
    assert len(found) * cost <= clock.now / 200 + cost and len(found) >= 5
    assert all(later - now >= 0.1 for now, later in zip(times, times[1:]))
    assert found[0][1:] == (10_000, 0, "") and shown.done == 10_000


def test_a_bar_shows_what_is_expected_and_noted(drawn, clock):
    found, _ = drawn
    shown = progress.Progress("er", 10, 3, True)
    shown.note = "loss 0.5000"
    shown.expect(-2)
    clock.now += 1
    shown.step()
    assert found[1:] == [(1, 8, 4, "loss 0.5000")]


@pytest.mark.parametrize("terminal, term, show", [(False, "xterm", True), (True, "dumb", True), (True, "xterm", False)])
def test_elsewhere_there_is_no_bar_and_lines_are_printed(drawn, clock, monkeypatch, capsys, terminal, term, show):
    found, _ = drawn
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", term)
    shown = progress.Progress("er", 10, 0, show)
    for _ in range(5):
        clock.now += 1
        shown.step()
    shown.line("task 1")
    shown.close()
    assert found == [] and capsys.readouterr().out == "task 1\n" and shown.done == 5


@pytest.mark.parametrize("show", [True, False])
def test_a_study_without_a_terminal_says_once_a_minute_how_far_it_is(clock, monkeypatch, capsys, show):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    study = runs.Progress("equal_budget", 300, show)
    study.expect(20)
    for _ in range(100):
        clock.now += 1.3
        study.step()
    study.failed()
    for _ in range(100):
        clock.now += 1.3
        study.step()
    lines = capsys.readouterr().err.splitlines()
    # 60 s are 46.2 runs, so a line comes with every 47th
    expected = [f"equal_budget: {done} of 320 runs" + ", 1 failed" * (done > 100) for done in (47, 94, 141, 188)]
    assert lines == (expected if show else [])


def test_the_figures_of_a_bar_have_the_speed_the_time_left_and_the_note():
    class Task:
        completed, total, speed, time_remaining, fields = 30, 745, 812.3, 3725.2, {"unit": "step", "note": "loss 0.4"}

    figures = bar._Figures()
    assert str(figures.render(Task)) == "30/745  812 steps/s  1:02:05 left  loss 0.4"
    Task.speed, Task.time_remaining, Task.fields = 0.25, None, {"unit": "run", "note": ""}
    assert str(figures.render(Task)) == "30/745  4.0 s/run"
    Task.speed = None
    assert str(figures.render(Task)) == "30/745"
