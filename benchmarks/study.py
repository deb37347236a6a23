"""What the main job costs and what the plan saves, measured in one run.

    python -m benchmarks.study [--epochs N]

1. Wall time of each phase of ``python -m study.run --space stilt`` on the embedded dataset, from
   rendering to tables; the share of the places' time, from the first job's start to the last one's
   end, in which a job ran; and the peak memory of all its processes together (proportional set
   size, sampled four times a second).
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
from study.cluster.queue import Placement, run_jobs
from study.conduct import Conductor, run_study
from study.data.store.embedded import prepare_embedded
from study.job import run_job
from study.request import Request, Study, check_request
from study.searches import searches_of
from study.terminal import StudyDisplay, Terminal

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


class JobClock(StudyDisplay):
    """A display that also notes when jobs start and stop."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.running: dict[str, float] = {}
        self.spans: list[tuple[float, float]] = []

    def started(self, key: str, label: str, until: int) -> None:
        self.running[key] = time.perf_counter()
        super().started(key, label, until)

    def stopped(self, key: str) -> None:
        if key in self.running:
            self.spans.append((self.running.pop(key), time.perf_counter()))
        super().stopped(key)


class ClockedTerminal(Terminal):
    """A terminal whose display of jobs is a `JobClock`."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.clock = JobClock(console)

    def at_work(self) -> JobClock:
        return self.clock


def study_of(
    store: Path,
    results: Path,
    *,
    epochs: int | None,
    trials: int,
    arms: tuple[str, ...] | None = None,
    at_once: int | None = None,
) -> Study:
    return check_request(
        Request(
            space=search_spaces.get("stilt"),
            arms=arms,
            store=store,
            trials=trials,
            tuning="net" if trials else "fixed",
            changes={} if epochs is None else {"epochs": epochs},
            results=str(results),
            name="benchmark",
            at_once=at_once,
        )
    )


def main_job(folder: Path, console: Console, places: int = 2) -> Path:
    """Runs the main job and prints its phases; returns the clip store."""
    memory = PeakMemory()
    memory.start()
    terminal = ClockedTerminal(console)
    began = time.perf_counter()
    store = prepare_embedded(folder / "store").path
    prepared = time.perf_counter()
    study = study_of(store, folder / "main", epochs=None, trials=6, at_once=places)
    failed = run_study(study, searches_of(study), address=None, terminal=terminal)
    ended = time.perf_counter()
    if failed:
        raise SystemExit(f"a training failed: {failed}")
    spans = terminal.clock.spans
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    busy = sum(stop - start for start, stop in spans) / (places * (last - first))
    table = Table("phase of the main job", "seconds")
    for name, seconds in (
        ("prepare", prepared - began),
        ("start", first - prepared),
        (f"{len(spans)} jobs", last - first),
        ("stop", ended - last),
        ("all", ended - began),
    ):
        table.add_row(name, f"{seconds:.1f}")
    console.print(table)
    console.print(f"a job ran in {100 * busy:.0f} % of the time of {places} places")
    console.print(f"peak memory of all processes: {memory.stop() / 2**30:.2f} GiB")
    return store


def train_in_plain_python(study: Study) -> float:
    """Seconds that the study's jobs take one after the other, without Ray."""
    with Terminal(Console(quiet=True)).at_work() as display:
        conductor = Conductor(study, searches_of(study), display)
        began = time.perf_counter()
        while (job := conductor.next_job()) is not None:
            conductor.started(job)
            run_job(job)
            conductor.ended(job)
        return time.perf_counter() - began


def train_on_ray(study: Study) -> float:
    """Seconds that the study's jobs take one after the other on a Ray that is up."""
    scratch = str((study.folder / "ray").resolve())
    placement = Placement(resources=study.request.resources, at_once=1, scratch=scratch)
    with Terminal(Console(quiet=True)).at_work() as display:
        conductor = Conductor(study, searches_of(study), display)
        began = time.perf_counter()
        run_jobs(conductor, placement)
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
