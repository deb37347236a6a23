"""What a running study shows in the terminal."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from study.data.store.preparation import Progress as Preparation

__all__ = ["Terminal", "Trainings"]

MARKS = {"complete": "[green]✓[/]", "pruned": "[yellow]–[/]", "failed": "[red]✗[/]"}


class Terminal:
    """A study's progress as a person reads it."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def heading(self, text: str) -> None:
        """Says which phase begins."""
        self._console.print(f"\n[bold]{escape(text)}[/]", highlight=False)

    def trainings(self, epochs: int) -> "Trainings":
        """A display of trainings, for a ``with`` statement."""
        return Trainings(self._console, epochs=epochs)

    @contextmanager
    def preparing(self, what: str) -> Iterator[Callable[[Preparation], None]]:
        """A bar of videos prepared; it appears when there is something to prepare."""
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
            began = time.monotonic()
            last: list[Preparation] = []

            def show(state: Preparation) -> None:
                last[:] = [state]
                bar.update(task, completed=state.done, total=state.total)

            yield show
        if last and last[0].before < last[0].total:
            self.say(f"prepared {what}: {last[0].total} videos, {time.monotonic() - began:.0f} s")

    def say(self, text: str) -> None:
        """A plain line."""
        self._console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that must not be overlooked."""
        self._console.print(f"  [bold red]{escape(text)}[/]", highlight=False, soft_wrap=True)


class Trainings:
    """A live line for each running training and a lasting line for each that ended.

    On a terminal the live lines move; elsewhere only the lasting ones are printed.
    """

    def __init__(self, console: Console, *, epochs: int) -> None:
        self._console = console
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("  {task.description}", markup=True),
            BarColumn(bar_width=20),
            TextColumn("epoch {task.completed}/{task.total}"),
            TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._running: dict[str, tuple[TaskID, str, float]] = {}

    def __enter__(self) -> "Trainings":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def started(self, name: str, label: str) -> None:
        if name in self._running:
            return  # started again after a lost process: the line goes on
        task = self._progress.add_task(escape(label), total=self._epochs, accuracy="")
        self._running[name] = (task, label, time.monotonic())

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None:
        task, _, _ = self._running[name]
        self._progress.update(task, completed=metrics["epoch"], accuracy=_accuracy(metrics))

    def ended(self, name: str, state: str, metrics: Mapping[str, Any]) -> None:
        task, label, since = self._running.pop(name)
        self._progress.remove_task(task)
        how = {
            "complete": "",
            "pruned": f"stopped early at epoch {metrics.get('epoch', 0)}",
            "failed": escape(str(metrics.get("failed", ""))),
        }[state]
        accuracy = "" if state == "failed" else _accuracy(metrics)
        self._console.print(
            f"  {MARKS[state]} {escape(label)}  {accuracy}  {how}  "
            f"[dim]{time.monotonic() - since:.0f} s[/]",
            highlight=False,
            soft_wrap=True,
        )


def _accuracy(metrics: Mapping[str, Any]) -> str:
    accuracy = metrics.get("validation_top1")
    return "" if accuracy is None else f"validation {100 * accuracy:.1f} %"
