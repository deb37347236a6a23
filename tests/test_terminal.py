"""What a running study shows, on a terminal and away from one."""

import io
import re

import pytest
from rich.console import Console

from study.data.store.preparation import Progress
from study.terminal import StudyDisplay, Terminal


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def console(*, terminal: bool, width: int = 80) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=width, color_system=None), file


def on_screen(written: str) -> list[str]:
    """The lines that stand on a terminal's screen after all that was written, cursor and all."""
    lines, at = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\n|\r)", written):
        if part == "\n":
            at += 1
            if at == len(lines):
                lines.append("")
        elif part == "\x1b[2K":
            lines[at] = ""
        elif match := re.fullmatch(r"\x1b\[(\d*)A", part):
            at = max(0, at - int(match[1] or 1))
        elif part != "\r" and not part.startswith("\x1b"):
            lines[at] += part
    return lines


def test_away_from_a_terminal_what_ended_is_a_line_each() -> None:
    to, file = console(terminal=False)
    with Terminal(to).at_work() as display:
        display.started("a", "stil split 1 trial 1: lr 0.1", 9)
        display.reported("a", 3, 0.5)
        display.stopped("a")
        display.ended("stil split 1 trial 1: lr 0.1", "complete", "validation 50.0 %")
        display.ended("stil split 1 trial 2: λ [1]", "pruned", "stopped at epoch 3")
        display.ended("stil seed 0", "failed", "loss is nan")
    assert file.getvalue().splitlines() == [
        "  ✓ stil split 1 trial 1: lr 0.1  validation 50.0 %",
        "  – stil split 1 trial 2: λ [1]  stopped at epoch 3",
        "  ✗ stil seed 0  loss is nan",
    ]


def test_away_from_a_terminal_the_summary_comes_every_half_minute() -> None:
    to, file = console(terminal=False)
    clock, printed = Clock(), []
    with StudyDisplay(to, clock=clock) as display:
        for second in range(95):
            clock.seconds = 100.0 + second
            before = file.getvalue()
            display.stands(f"{second} of 95")
            if file.getvalue() != before:
                printed.append(second)
    assert printed == [30, 60, 90]
    assert file.getvalue().splitlines() == [f"  … {second} of 95" for second in printed]


def test_on_a_terminal_live_lines_appear_and_go_and_ended_ones_stay() -> None:
    to, file = console(terminal=True)
    with StudyDisplay(to) as display:
        display.started("a", "trial 1", 9)
        display.started("b", "trial 2", 9)
        display.reported("a", 3, 0.5)
        display.reported("unknown", 3, 0.5)
        display.stands("2 running · 4 trials to come")
        display._live.refresh()
        screen = on_screen(file.getvalue())
        (first,) = (line for line in screen if "trial 1" in line)
        assert "epoch 3/9  validation 50.0 %" in first
        assert any("trial 2" in line and "starts" in line for line in screen)
        assert any("2 running · 4 trials to come" in line for line in screen)
        display.stopped("a")
        display.ended("trial 1", "complete", "validation 50.0 %")
        display._live.refresh()
        screen = on_screen(file.getvalue())
        assert [line for line in screen if "trial 1" in line] == ["  ✓ trial 1  validation 50.0 %"]
        assert any("trial 2" in line for line in screen)
    screen = on_screen(file.getvalue())
    assert [line for line in screen if line.strip()] == ["  ✓ trial 1  validation 50.0 %"]


@pytest.mark.parametrize("width", [80, 120])
def test_live_lines_fit_the_terminal(width: int) -> None:
    to, file = console(terminal=True, width=width)
    label = "stil split 1 trial 12: lr 0.012, λ 0.12, attention_dim 256, spatial loss 1.2"
    with StudyDisplay(to) as display:
        display.started("a", label, 100)
        display.reported("a", 33, 0.5)
        display.stands(
            "2 running · 4 trials to come · best so far 50.0 % · 1 of 6 rows · about 2 min left"
        )
        display._live.refresh()
        screen = on_screen(file.getvalue())
    assert max(map(len, screen)) <= width
    shown = " ".join("".join(screen).split())
    for what in ("stil split 1 trial 12", "epoch 33/100", "validation 50.0 %", "2 min left"):
        assert what in shown


def test_text_is_never_markup() -> None:
    to, file = console(terminal=False)
    terminal = Terminal(to)
    terminal.heading("[bold]STILT[/bold]")
    terminal.say("scales=[1,0.875] [/]")
    terminal.warn("[red]x[/red]")
    with terminal.at_work() as display:
        display.ended("[/]", "failed", "[red]")
    for text in ("[bold]STILT[/bold]", "scales=[1,0.875] [/]", "[red]x[/red]", "✗ [/]  [red]"):
        assert text in file.getvalue()


def test_a_preparation_says_what_it_did_and_nothing_where_all_was_there() -> None:
    for before, lines in ((0, 1), (8, 0)):
        to, file = console(terminal=False)
        with Terminal(to).preparing("the embedded dataset") as show:
            show(Progress(done=8, total=8, skipped=0, before=before))
        written = [line for line in file.getvalue().splitlines() if line.strip()]
        assert len(written) == lines
        assert all(line.startswith("  prepared the embedded dataset: 8 videos") for line in written)


def test_away_from_a_terminal_a_preparation_prints_a_line_every_half_minute() -> None:
    to, file = console(terminal=False)
    clock = Clock()
    with Terminal(to, clock=clock).preparing("the embedded dataset") as show:
        for second in range(95):
            clock.seconds = 100.0 + second
            show(Progress(done=second, total=95, skipped=0, before=0))
    assert [line for line in file.getvalue().splitlines() if "…" in line] == [
        f"  … preparing the embedded dataset: video {second} of 95" for second in (30, 60, 90)
    ]
