"""Progress is a line a stage where stderr is no terminal, and a bar where it is."""

import io
import sys

from athanor.compiler.commands.progress import show_progress


def test_plain_lines(capsys):
    with show_progress() as on_progress:
        on_progress("import", 0, 1)
        on_progress("import", 1, 1)
        for done in range(4):
            on_progress("schedule", done, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "import ...\nschedule (3) ...\n"


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with show_progress() as on_progress:
        on_progress("schedule", 1, 3)
        on_progress("schedule", 3, 3)
    text = sys.stderr.getvalue()
    assert "schedule" in text
    assert "3/3" in text
