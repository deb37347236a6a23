"""What the main job costs and what the plan saves, measured in one run.

    python -m benchmarks.study [--epochs N]

1. Wall time of each phase of ``python -m study.run --space stilt`` on the embedded dataset, from
   rendering to tables, and the peak memory of all its processes together (proportional set size,
   sampled four times a second).
2. The ablation from shared trainings against each arm trained by itself: the six arms of STILT's
   Tables 4 and 5, and the sixteen of the whole fusion ablation.
3. Ray's overhead: the shared trainings through Ray Tune against the same in plain Python.

2 and 3 train for ``--epochs`` epochs, one training at a time, with as many threads.
"""

import argparse
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import search_spaces
from study.cluster.connection import running_ray
from study.cluster.queue import Placement, run_trainings
from study.conduct import describe, parts_of, run_study
from study.data.store.embedded import prepare_embedded
from study.job import run_job
from study.request import Request, Study, check_request
from study.terminal import Terminal

TABLES_4_AND_5 = ("spatial", "temporal", "two-stream", "stil", "stil-awf-simplex", "stil-early")


class PeakMemory(threading.Thread):
    """Samples the memory of this process and all its descendants until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.25):
            self.bytes = max(self.bytes, sum(map(_pss, _family())))

    def stop(self) -> int:
        self._stopped.set()
        self.join()
        return self.bytes


def _family() -> list[Path]:
    """The /proc folders of this process and all its descendants, Ray's among them."""
    children: dict[str, list[Path]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            children.setdefault(parent, []).append(folder)
    family = [Path("/proc") / str(os.getpid())]
    for folder in family:  # grows as it goes
        family += children.get(folder.name, [])
    return family


def _pss(folder: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class PhaseClock(Terminal):
    """A terminal that also notes when each phase begins."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.began: list[tuple[str, float]] = []

    def heading(self, text: str) -> None:
        self.began.append((text.split(":")[0], time.perf_counter()))
        super().heading(text)


def study_of(store: Path, results: Path, *, epochs: int | None, arms=None, trials: int) -> Study:
    return check_request(
        Request(
            space=search_spaces.get("stilt"),
            arms=arms,
            store=store,
            trials=trials,
            tuning="shared" if trials else "fixed",
            changes={} if epochs is None else {"epochs": epochs},
            results=str(results),
            name="benchmark",
        )
    )


def main_job(folder: Path, console: Console) -> Path:
    """Runs the main job and prints its phases; returns the clip store."""
    memory = PeakMemory()
    memory.start()
    clock = PhaseClock(console)
    clock.began.append(("Prepare", time.perf_counter()))
    store = prepare_embedded(folder / "store").path
    clock.began.append(("Start Ray", time.perf_counter()))
    failed = run_study(
        study_of(store, folder / "main", epochs=None, trials=6), address=None, terminal=clock
    )
    ended = time.perf_counter()
    if failed:
        raise SystemExit(f"a training failed: {failed}")
    table = Table("phase of the main job", "seconds")
    for (name, began), (_, next_began) in zip(
        clock.began, [*clock.began[1:], ("", ended)], strict=True
    ):
        table.add_row(name, f"{next_began - began:.1f}")
    table.add_row("all", f"{ended - clock.began[0][1]:.1f}")
    console.print(table)
    console.print(f"peak memory of all processes: {memory.stop() / 2**30:.2f} GiB")
    return store


def train_in_plain_python(study: Study) -> float:
    """Seconds that the study's trainings take one after the other, without Ray."""
    plan = study.plan(lambda arm, target: {})
    began = time.perf_counter()
    for training in plan.trainings.values():
        run_job(study.job(training, parts=parts_of(training, plan)))
    return time.perf_counter() - began


def train_on_ray(study: Study) -> float:
    """Seconds that the study's trainings take one after the other on a Ray that is up."""
    plan = study.plan(lambda arm, target: {})
    jobs = [
        (describe(training), study.job(training, parts=parts_of(training, plan)))
        for training in plan.trainings.values()
    ]
    terminal = Terminal(Console(quiet=True))
    began = time.perf_counter()
    with terminal.trainings(
        max(t.hyperparameters.epochs for t in plan.trainings.values())
    ) as watcher:
        run_trainings(
            jobs,
            placement=Placement(
                resources=study.request.resources,
                at_once=1,
                scratch=str((study.folder / "ray").resolve()),
            ),
            watcher=watcher,
        )
    return time.perf_counter() - began


def shared_against_alone(
    folder: Path, store: Path, epochs: int
) -> Iterator[tuple[str, float, float]]:
    everything = tuple(arm.name for arm in search_spaces.get("stilt").arms if arm.default)
    for label, arms in (("6 arms of Tables 4 and 5", TABLES_4_AND_5), ("16 arms", everything)):
        where = folder / f"shared-{len(arms)}"
        shared = train_in_plain_python(study_of(store, where, epochs=epochs, arms=arms, trials=0))
        alone = sum(
            train_in_plain_python(
                study_of(
                    store, folder / f"alone-{len(arms)}-{arm}", epochs=epochs, arms=(arm,), trials=0
                )
            )
            for arm in arms
        )
        yield label, alone, shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="epochs of parts 2 and 3")
    epochs = parser.parse_args().epochs
    console = Console(width=100)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = main_job(folder, console)
        table = Table("what", "each by itself", "shared", "ratio", title="trainings of an ablation")
        for label, alone, shared in shared_against_alone(folder, store, epochs):
            table.add_row(label, f"{alone:.1f} s", f"{shared:.1f} s", f"{alone / shared:.1f}×")
        console.print(table)
        plain = train_in_plain_python(
            study_of(store, folder / "plain", epochs=epochs, arms=TABLES_4_AND_5, trials=0)
        )
        with running_ray(None):
            on_ray = train_on_ray(
                study_of(store, folder / "on-ray", epochs=epochs, arms=TABLES_4_AND_5, trials=0)
            )
        table = Table("what", "Ray Tune", "plain Python", "ratio", title="Ray's overhead")
        table.add_row(
            "the same 2 trainings", f"{on_ray:.1f} s", f"{plain:.1f} s", f"{on_ray / plain:.2f}×"
        )
        console.print(table)


if __name__ == "__main__":
    main()
