"""What a running study shows in the terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from study.data.store.preparation import Progress as Preparation

__all__ = ["StudyDisplay", "Terminal"]

LINE_EVERY_SECONDS = 30.0  # away from a terminal
LABEL_WIDTH = 20  # of a job's live line at the least
SAID_WIDTH = 54  # of a job's live line beyond its label: bar, epoch, accuracy and time
MARKS = {"complete": "[green]✓[/]", "pruned": "[yellow]–[/]", "failed": "[red]✗[/]"}


class Terminal:
    """Prints a study's progress for a person to read.

    Args:
        console: Where to print.
        clock: Returns the time in seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock

    def heading(self, text: str) -> None:
        """Prints which phase begins."""
        self._console.print(f"\n[bold]{escape(text)}[/]", highlight=False)

    def at_work(self) -> "StudyDisplay":
        """Returns a display of a study's jobs, for a ``with`` statement."""
        return StudyDisplay(self._console, clock=self._clock)

    @contextmanager
    def preparing(self, what: str) -> Iterator[Callable[[Preparation], None]]:
        """Shows a bar of the videos prepared, if there are any to prepare.

        Where the console is no terminal, it prints a line every half minute instead.

        Args:
            what: What is prepared.

        Yields:
            What receives the preparation's progress.
        """
        bar = Progress(
            TextColumn(f"  preparing {what}"),
            BarColumn(bar_width=20),
            TextColumn("video {task.completed}/{task.total}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        with bar:
            task = bar.add_task("", total=None)
            began = printed = self._clock()
            last: list[Preparation] = []

            def show(state: Preparation) -> None:
                nonlocal printed
                last[:] = [state]
                bar.update(task, completed=state.done, total=state.total)
                if not self._console.is_terminal and self._clock() - printed >= LINE_EVERY_SECONDS:
                    printed = self._clock()
                    self.say(f"… preparing {what}: video {state.done} of {state.total}")

            yield show
        if last and last[0].before < last[0].total:
            self.say(f"prepared {what}: {last[0].total} videos, {self._clock() - began:.0f} s")

    def say(self, text: str) -> None:
        """Prints a plain line."""
        self._console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a line that must not be overlooked."""
        self._console.print(f"  [bold red]{escape(text)}[/]", highlight=False, soft_wrap=True)


class StudyDisplay:
    """A running study: a live line for each job, a lasting one for each that ended.

    A further live line sums up the study. Where the console is no terminal, only lasting lines are
    printed, and the summary every half minute. For a ``with`` statement.

    Args:
        console: Where to print.
        clock: Returns the time in seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        width = max(LABEL_WIDTH, console.width - SAID_WIDTH)
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}", table_column=Column(no_wrap=True, max_width=width)),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._summary = Text()
        self._live = Live(
            Group(self._progress, Padding(self._summary, (0, 0, 0, 2))),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed = clock()

    def __enter__(self) -> "StudyDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def started(self, key: str, label: str, until: int) -> None:
        """Adds a job, which trains until the end of an epoch, to the display."""
        self._tasks[key] = self._progress.add_task(escape(label), total=until, said="starts")

    def reported(self, key: str, epoch: int, accuracy: float | None) -> None:
        """Shows an epoch that a job has finished, and its validation accuracy, 0..1 or None."""
        if key in self._tasks:
            total = self._progress.tasks[self._progress.task_ids.index(self._tasks[key])].total
            said = f"epoch {epoch}/{total:.0f}  {_percent(accuracy)}"
            self._progress.update(self._tasks[key], completed=epoch, said=said)

    def stopped(self, key: str) -> None:
        """Takes a job off the display."""
        if key in self._tasks:
            self._progress.remove_task(self._tasks.pop(key))

    def ended(self, label: str, state: str, said: str) -> None:
        """Prints a trial or a training that ended: ``complete``, ``pruned`` or ``failed``."""
        self._console.print(
            f"  {MARKS[state]} {escape(label)}  [dim]{escape(said)}[/]",
            highlight=False,
            soft_wrap=True,
        )

    def say(self, text: str) -> None:
        """Prints a line that lasts."""
        self._console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a line that lasts and must not be overlooked."""
        self._console.print(f"  [bold red]{escape(text)}[/]", highlight=False, soft_wrap=True)

    @property
    def due(self) -> bool:
        """Whether the summary is to be printed again, which it never is on a terminal."""
        return not self._console.is_terminal and self._clock() - self._printed >= LINE_EVERY_SECONDS

    def stands(self, text: str) -> None:
        """Shows a summary of the study in place of the last."""
        self._summary.plain = text
        if self.due:
            self._printed = self._clock()
            self._console.print(f"  … {escape(text)}", highlight=False, soft_wrap=True)


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"validation {100 * accuracy:.1f} %"
