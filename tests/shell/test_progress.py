"""Progress bars: when they appear, what they say, that they leave nothing behind."""

from __future__ import annotations

import io
import time

import pytest

from sommelier.shell import progress
from sommelier.shell.progress import ProgressBar, Step, bar, plain
from sommelier.shell.terminal import display_width


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_fast_statement_draws_nothing() -> None:
    stream = Terminal()
    with ProgressBar(stream) as report:
        report("import", 1, 2, "a")
    assert stream.getvalue() == ""


def test_a_slow_statement_draws_after_the_delay_and_clears_the_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "DELAY_S", 0.05)
    stream = Terminal()
    with ProgressBar(stream) as report:
        report("import", 1, 4, "a.onnx")
        deadline = time.monotonic() + 5
        while "1/4" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    text = stream.getvalue()
    assert text.startswith("\rimport ")
    assert "1/4" in text
    assert text.endswith("\r\x1b[K")


def test_a_stream_that_is_no_terminal_stays_silent() -> None:
    stream = io.StringIO()
    with ProgressBar(stream) as report:
        report("import", 1, 4, "a.onnx")
    assert stream.getvalue() == ""


def test_plain_mode_writes_a_line_per_phase_every_five_seconds_and_at_the_end() -> None:
    now = [0.0]
    stream = io.StringIO()
    with ProgressBar(stream, mode="plain", clock=lambda: now[0]) as report:
        for done in range(4):
            now[0] = float(done)
            report("import", done, 20)
        now[0] = 6.0
        report("import", 4, 20)
        now[0] = 6.5
        report("import", 20, 20)
        report("sketch", 0, 3, "m")
    assert stream.getvalue().splitlines() == [
        "import 0/20",
        "import 4/20",
        "import 20/20",
        "sketch 0/3 m",
    ]


def test_the_bar_says_phase_count_rate_eta_and_what_is_done() -> None:
    step = Step("sketch", 30, 90, "resnet20", 10.0, 0)
    assert bar(step, 25.0, width=100) == (
        "sketch ████████░░░░░░░░░░░░░░░░ 30/90  2/s  ETA 0:30  resnet20"
    )


def test_the_rate_counts_only_what_was_done_since_the_phase_began() -> None:
    resumed = Step("sketch", 60, 90, None, 0.0, 50)
    assert "1/s  ETA 0:30" in bar(resumed, 10.0, width=100)


def test_without_a_total_there_is_no_bar_and_no_eta() -> None:
    line = bar(Step("import", 12, None, None, 0.0, 0), 6.0, width=80)
    assert "12  2/s" in line
    assert "ETA" not in line
    assert "█" not in line


@pytest.mark.parametrize("width", [20, 30, 50, 79, 119])
@pytest.mark.parametrize("total", [None, 7, 100_000])
def test_a_bar_never_wraps(width: int, total: int | None) -> None:
    step = Step("equivalence", 3, total, "a_very_long_model_name_" * 5 + "模型", 0.0, 0)
    assert display_width(bar(step, 1.0, width=width)) <= width


def test_names_in_progress_cannot_control_the_terminal() -> None:
    step = Step("import", 1, 2, "a\x1b[2J", 0.0, 0)
    assert "\x1b" not in bar(step, 1.0, width=80) + plain(step)


def test_done_beyond_total_does_not_overflow_the_bar() -> None:
    assert "█" * 24 + " 9/7" in bar(Step("x", 9, 7, None, 0.0, 0), 1.0, width=80)


def test_what_is_said_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    stream = Terminal()
    with ProgressBar(stream) as report:
        report.say("before the bar")
        report("import", 1, 4, "a.onnx")
        deadline = time.monotonic() + 5
        while "1/4" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        report.say("cancelling")
    assert stream.getvalue().startswith("before the bar\n")
    assert "\x1b[K\r\x1b[Kcancelling\n" in stream.getvalue()
