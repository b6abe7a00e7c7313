"""Progress: silent off a terminal and for two seconds, then a line with rate and remaining time."""

from __future__ import annotations

import io
import sys

import pytest

from reinforge.cli import progress as module
from reinforge.workflow.progress import Silent


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    # Not a fixture: pytest sets its own standard error when the test itself begins.
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return screen


def test_it_is_silent_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with module.progress() as shown:
        assert isinstance(shown, Silent)


def test_what_is_short_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = screen(monkeypatch)
    with module.progress() as shown:
        assert isinstance(shown, module.Terminal)
        for done in range(1000):
            shown.update(done, 1000, "quick")
    assert terminal.getvalue() == ""


def test_what_takes_long_shows_rate_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = screen(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    now = 0.0
    with module.progress() as shown:
        assert isinstance(shown, module.Terminal)
        shown.update(0, 100, "training")
        assert shown._bar is not None
        shown._bar.get_time = lambda: now
        for done in range(1, 51):
            now = done * 0.1
            shown.update(done, 100, "training")
        shown._bar.refresh()
    text = terminal.getvalue()
    # 50 of 100 at ten a second: five seconds remain.
    assert "training" in text
    assert "50%" in text
    assert "10/s" in text
    assert "0:00:05" in text


@pytest.mark.parametrize("total", [1.0, None])
def test_a_share_of_the_whole_has_no_rate_and_what_nobody_knows_no_share(
    total: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = screen(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    now = 0.0
    with module.progress() as shown:
        assert isinstance(shown, module.Terminal)
        shown.update(0, total, "a note")
        assert shown._bar is not None
        shown._bar.get_time = lambda: now
        for done in range(1, 9):
            now = done * 0.1
            shown.update(done / 16, total, "a note")
        shown._bar.refresh()
    text = terminal.getvalue()
    assert ("50%" in text, "/s" in text) == ((True, False) if total else (False, True))
