"""What `sommelier serve` reads of its command line and key file, and how long its end may take."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from sommelier.deployment_records import ServedFigures
from sommelier.errors import SommelierError
from sommelier.shell import serving
from sommelier.shell.config import ConfigError
from sommelier.shell.following import Follower
from sommelier.shell.served import ServedDatabase
from sommelier.shell.serving_plan import Wanted, keep, serving_plan

FIGURES = ServedFigures("vision", "id of a", "cpu", 1, 7, 2.0)


def test_a_key_that_is_commented_out_is_no_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("\ufeff# first\n  # spaced\n\t#tab\n  mine  \n\nnot#this\n", encoding="utf-8")
    assert serving._keys(str(keys)) == {"mine", "not#this"}
    keys.write_text("\ufeff#all\n  # of them\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no keys"):
        serving._keys(str(keys))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max-queue", "0"], "'0' is no number from 1 on"),
        (["--max-connections", "many"], "'many' is no number from 1 on"),
        (["--drain-delay", "x"], "'x' is no number of seconds"),
        (["--drain-timeout", "-1"], "'-1' is no number of seconds"),
        (["--drain-timeout", "inf"], "'inf' is no number of seconds"),
    ],
)
def test_a_number_that_is_none_is_told_without_the_names_of_functions(
    capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        serving._parser().parse_args([f"{flags[0]}={flags[1]}"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in said
    assert "_count" not in said
    assert "_seconds" not in said


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are asked never answer."""
    if sys.platform == "win32":
        pytest.skip("a script of POSIX")
    script = tmp_path / "hangs"
    script.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_who_ends_waits_for_no_answer_of_the_database(hanging: None) -> None:
    wanted = Wanted("zoo.sommelier", None, (), None)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(SommelierError, match="the server ends"):
        serving_plan(wanted, stop.is_set)
    with pytest.raises(SommelierError, match=r"did not answer within 0\.3 s"):
        keep(wanted, [FIGURES], 0.3)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("asks", [False, True], ids=["it hangs itself", "another hangs before it"])
def test_the_end_takes_no_longer_than_it_is_given(
    hanging: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, asks: bool
) -> None:
    database = tmp_path / "zoo.sommelier"
    database.write_bytes(b"")
    wanted = Wanted(str(database), None, (), None)
    served = ServedDatabase(wanted)
    served.ledger._open[FIGURES.key] = FIGURES
    plan = type("Plan", (), {"version": "1"})()
    follower = Follower(wanted, served, plan)
    if asks:
        follower._asking.acquire()
    began = time.monotonic()
    follower.close(within_s=1.0)
    assert time.monotonic() - began < 5.0
    assert "what 7 requests took could not be kept" in caplog.text


def test_figures_have_what_is_left_of_the_drain_and_two_seconds_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = serving._parser().parse_args(["zoo.sommelier", "--drain-timeout=6"])
    asked: list[float] = []
    ended = type("Ended", (), {"close": lambda _, within_s: asked.append(within_s)})()
    for drained_s in (5.0, 5.0 + 2.0, 5.0 + 6.0):  # --drain-delay, and of --drain-timeout
        running = serving._Serving(options)
        running._follower = ended
        since = time.monotonic() - drained_s
        running._service = type("Service", (), {"draining_from_s": since})()
        running.close()
    assert asked == pytest.approx([6.0, 4.0, 2.0], abs=0.5)
