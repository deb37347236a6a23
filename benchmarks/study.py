"""What the main job costs, what Ray adds and what the plan saves, measured in one run.

    python -m benchmarks.study [--epochs N] [--trials N …] [--seeds N] [--rounds N] [--draws N]

1. The main job, ``python -m study.run --space stilt`` on the embedded dataset from rendering to
   tables, two trainings at once: wall time of its phases, the share of the two places' time in
   which they were busy, and the peak memory of all its processes (proportional set size, sampled
   four times a second).
2. Ray's overhead: the ablation's two trainings through ``run_study``, one at a time, against the
   same two in plain Python with as many threads. Start-up, until the first job's code runs, is
   apart.
3. The training work of the 16 default arms of ``stilt``, search included, against other ways to
   them: each arm trained by itself; best practice, that is the spatial, the temporal and the STIL
   net once each, of whose stored scores the 13 other rows are fusions; and each arm with a search
   of its own, of the same budget. Nothing is shared between the nets or arms of another way.

   Work is epochs × seconds an epoch. Epochs are counted: the project's own plan and searches of
   each way are replayed at drawn validation accuracies, so rungs and pruning are the same in all.
   Seconds are each net's median epoch in part 2, one training at a time, at the default attention
   dim. Starts, scoring of test videos and fusion aren't counted.
"""

import argparse
import contextlib
import os
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import search_spaces
from models.fusion import FUSIONS
from study.agenda import Agenda, ArmSearch, Finished, Outlook, next_jobs
from study.conduct import Conductor, run_study
from study.data.store.embedded import prepare_embedded
from study.job import run_job
from study.ledger import Ledger, look
from study.plan import Training
from study.request import Request, Study, check_request
from study.results.store import ResultStore
from study.search import Chosen, Trial
from study.searches import agenda_of, objective_of, searches_of
from study.terminal import StudyDisplay, Terminal

PLACES = 2  # of the main job
ARMS = tuple(arm.name for arm in search_spaces.get("stilt").arms if arm.default)
NETS = ("spatial", "temporal", "two-stream", "stil")  # each is the name of an arm that trains it
EACH = tuple((arm,) for arm in ARMS)
TRIALS = "of a search, the first of them in the main job (3 as on embedded, 16 as on other data)"
PRACTICE = (("spatial",), ("temporal",), ("stil",))

Work = Counter[tuple[str, str]]
"""By phase and net, the epochs; by phase and ``jobs``, the trials or reported trainings."""


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
    """A display that also notes when jobs start and stop, in seconds."""

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


def seconds_of(work: Work, pace: Mapping[str, float], phases: Sequence[str]) -> float:
    """Seconds of the work's epochs in some phases, at each net's seconds an epoch."""
    return sum(work[phase, net] * pace[net] for phase in phases for net in NETS)


def busy_share(spans: Sequence[tuple[float, float]], places: int) -> float:
    """The share of the places' time, from the first start to the last stop, in which jobs ran."""
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    return sum(stop - start for start, stop in spans) / (places * (last - first))


def net_of(training: Training) -> str:
    """Which of ``NETS`` a training trains."""
    if training.options["interaction"]:
        return "stil"
    streams = training.options["streams"]
    return streams[0] if len(streams) == 1 else "two-stream"


def drawn_value(draw: int, key: str, share: float) -> float:
    """What a training reaches at a share of its epochs: its own level, and noise that fades."""
    level, noise = (random.Random(f"{draw}/{key}{of}").gauss(0, 1) for of in ("", f"/{share}"))
    return level + noise * (1 - share)


def replay(agenda: Agenda, *, draw: int = 0) -> Work:
    """Does a study without training: each job ends at once, at drawn validation accuracies.

    Arms that choose for themselves choose different trials as far as there are some.
    """
    work: Work = Counter()
    reached: Counter[str] = Counter()
    values: dict[tuple[str, str], dict[int, float]] = {}
    parts: dict[str, frozenset[str]] = {}
    choices: dict[str, Mapping[str, Chosen]] = {}

    def ask() -> Outlook:
        return next_jobs(agenda, Finished(values=values, parts=parts, choices=choices))

    while not (outlook := ask()).done:
        for one in agenda.searches:
            if one.search.name in outlook.undecided:
                choices[one.search.name] = choose_apart(one, outlook.searches[one.search.name])
        for job in outlook.jobs[:1]:
            training, phase = job.training, "search" if job.search else "reported"
            key = training.training_id
            work[phase, net_of(training)] += max(0, job.until - reached[key])
            reached[key] = max(job.until, reached[key])
            parts[training.scoring_id] = parts.get(training.scoring_id, frozenset()) | {*job.parts}
            for one in agenda.searches:
                values[one.search.name, key] = {
                    rung: drawn_value(draw, f"{one.search.name}/{key}", rung / one.search.rungs[-1])
                    for rung in one.search.rungs
                    if rung <= reached[key]
                }
    work["search", "jobs"] = sum(map(len, outlook.searches.values()))
    work["reported", "jobs"] = len(outlook.plan.trainings)
    return work


def choose_apart(one: ArmSearch, trials: Sequence[Trial]) -> dict[str, Chosen]:
    """Has arms choose as many different trials as they can, which takes most trainings."""
    complete = [trial.number for trial in trials if trial.state == "complete"]
    taken: Counter[str] = Counter()
    chosen = {}
    for name in one.arms:
        stream = FUSIONS[search_spaces.get("stilt").arm(name).fusion].stream
        streams = ("spatial", "temporal") if stream is None else (stream,)
        picks = {stream: complete[taken[stream] % len(complete)] for stream in streams}
        taken.update(streams)
        chosen[name] = Chosen(trials=picks, candidates=len(complete), top1=0.0)
    return chosen


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the studies of a run have in common; ``epochs`` of None are the space's own."""

    folder: Path
    epochs: int | None
    seeds: int
    draws: int

    def study(self, name: str, arms: tuple[str, ...] = ARMS, **asked: Any) -> Study:
        return check_request(
            Request(
                space=search_spaces.get("stilt"),
                arms=arms,
                store=self.folder / "store",
                changes={} if self.epochs is None else {"epochs": self.epochs},
                results=str(self.folder / name),
                name="benchmark",
                **{"trials": 0, "at_once": 1, **asked},
            )
        )

    def work(self, groups: Sequence[tuple[str, ...]], trials: int, tuning: str = "net") -> Work:
        """The work of groups of arms, each of which is a study of its own; the sum of all draws."""
        work: Work = Counter()
        for arms in groups:
            study = self.study("counted", arms, trials=trials, tuning=tuning, seeds=self.seeds)
            searches = searches_of(study)
            for draw in range(self.draws):
                work += replay(agenda_of(study, searches), draw=draw)
        return work

    def chosen_work(self, name: str, trials: int) -> Work:
        """The reported trainings that own tuning takes by the trials of a finished study."""
        study = self.study(name, trials=trials, tuning="own", seeds=self.seeds)
        searches = searches_of(study)
        objectives = {one.search.name: objective_of(study, key) for key, one in searches.items()}
        ledger = Ledger(
            ResultStore(study.request.results), objectives, checkpoints=study.checkpoints
        )
        trainings = look(agenda_of(study, searches), ledger).plan.trainings.values()
        work: Work = Counter({("reported", "jobs"): len(trainings) * self.draws})
        for training in trainings:
            work["reported", net_of(training)] += training.hyperparameters.epochs * self.draws
        return work


def main_job(bench: Bench, trials: int, console: Console) -> None:
    """Runs the main job and prints what it took."""
    memory = PeakMemory()
    memory.start()
    terminal = ClockedTerminal(console)
    began = time.perf_counter()
    prepare_embedded(bench.folder / "store")
    prepared = time.perf_counter()
    study = bench.study("main", trials=trials, at_once=PLACES)
    run_on_ray(study, terminal)
    ended = time.perf_counter()
    peak = memory.stop()
    spans = terminal.clock.spans
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    in_epochs = sum(ResultStore(study.request.results).read("epochs")["seconds"].to_pylist())
    console.print(
        f"The main job took {ended - began:.1f} s: {prepared - began:.1f} to prepare, "
        f"{first - prepared:.1f} to start, {last - first:.1f} for {len(spans)} jobs, "
        f"{ended - last:.1f} to stop.\n"
        f"{PLACES} places: a job ran in {busy_share(spans, PLACES):.0%} of their time from the "
        f"first job to the last, an epoch in {in_epochs / PLACES / (last - first):.0%}.\n"
        f"Peak memory of all processes (PSS): {peak / 1e9:.2f} GB; target: below 3 GB."
    )


def run_on_ray(study: Study, terminal: Terminal) -> None:
    if failed := run_study(study, searches_of(study), address=None, terminal=terminal):
        raise SystemExit(f"a training failed: {failed}")


def on_ray(study: Study) -> tuple[float, float]:
    """Seconds until the first job's code runs, and from there until all has ended, Ray included."""
    began = time.time()
    run_on_ray(study, Terminal(Console(quiet=True)))
    ended = time.time()
    started = ResultStore(study.request.results).read("trainings")["started_at"].to_pylist()
    first = min(started).replace(tzinfo=UTC).timestamp()
    return first - began, ended - first


def in_plain_python(study: Study) -> float:
    """Seconds that the study's jobs take one after the other, without Ray."""
    with Terminal(Console(quiet=True)).at_work() as display:
        conductor = Conductor(study, searches_of(study), display)
        began = time.perf_counter()
        while (job := conductor.next_job()) is not None:
            conductor.started(job)
            run_job(job)
            conductor.ended(job)
        conductor.close()
    ResultStore(study.request.results).compact()
    return time.perf_counter() - began


def overhead_of_ray(bench: Bench, rounds: int, console: Console) -> dict[str, float]:
    """Prints what Ray adds to the two trainings; returns each net's seconds an epoch."""
    times: dict[str, list[float]] = defaultdict(list)
    epochs: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        start, seconds = on_ray(bench.study(f"ray-{number}", NETS[2:]))
        plain = in_plain_python(bench.study(f"plain-{number}", NETS[2:]))
        times["start-up of Ray, s"].append(start)
        times["from the first job's start, s"].append(seconds)
        times["plain Python, s"].append(plain)
        times["Ray's overhead, %"].append(100 * (seconds / plain - 1))
        for net in NETS[:2]:  # of which each trains alone where arms share nothing
            in_plain_python(bench.study(f"plain-{number}-{net}", (net,)))
        for folder in bench.folder.glob(f"plain-{number}*"):
            results = ResultStore(folder)
            nets = {line["training_id"]: line["arm"] for line in results.read("rows").to_pylist()}
            for line in results.read("epochs").to_pylist():
                epochs[nets[line["training_id"]]].append(line["seconds"])
    table = Table("the same 2 trainings", *(f"round {number + 1}" for number in range(rounds)))
    table.add_column("median")
    for name, values in times.items():
        table.add_row(name, *(f"{value:.1f}" for value in (*values, median(values))))
    console.print(table)
    console.print("Target of the overhead beyond start-up: at most 5 %.")
    return {net: median(seconds) for net, seconds in epochs.items()}


def compare_work(
    bench: Bench, pace: Mapping[str, float], budgets: Sequence[int], console: Console
) -> None:
    """Prints the training work of the 16 arms each way."""
    every = (ARMS,)
    fixed = {
        "arm by arm": bench.work(EACH, 0),
        "best practice": bench.work(PRACTICE, 0),
        "ours": bench.work(every, 0),
    }
    _show(bench, f"settings as they are, {bench.seeds} seeds", fixed, 1, pace, console)
    for trials in budgets:
        net, own = bench.work(every, trials), bench.work(every, trials, "own")
        ways = {
            "a search an arm": bench.work(EACH, trials),
            "best practice": bench.work(PRACTICE, trials),
            "net": net,
            "own, at most": own,
        }
        if trials == budgets[0]:
            searched = Counter({key: count for key, count in net.items() if key[0] == "search"})
            ways["own, as chosen"] = searched + bench.chosen_work("main", trials)
        title = f"searches of {trials} trials, {bench.seeds} seeds"
        _show(bench, title, ways, len(ways) - 2, pace, console)
    console.print(
        "Seconds an epoch: " + ", ".join(f"{net} {pace[net]:.2f}" for net in NETS) + ". Trials and "
        f"epochs: means of {bench.draws} draws. × is a way's seconds over those of ours.\n"
        "own, at most: arms choose different trials wherever they can; own, as chosen: by the "
        "scores of the main job's trials.\n"
        "Target: a search an arm takes at least 6 × net and 6 × own."
    )


def _show(
    bench: Bench,
    title: str,
    ways: Mapping[str, Work],
    ours: int,
    pace: Mapping[str, float],
    console: Console,
) -> None:
    """Prints each way's mean work, and as a multiple of each of the last ways, which are ours."""
    bases = list(ways)[-ours:]
    table = Table("way", "trials", "trainings", "epochs", "seconds", "of search", title=title)
    for way in bases:
        table.add_column(f"× {way}")
    seconds = {way: seconds_of(work, pace, ("search", "reported")) for way, work in ways.items()}
    for way, work in ways.items():
        epochs = work.total() - work["search", "jobs"] - work["reported", "jobs"]
        counts = (
            work["search", "jobs"],
            work["reported", "jobs"],
            epochs,
            seconds[way],
            seconds_of(work, pace, ("search",)),
        )
        table.add_row(
            way,
            *(f"{count / bench.draws:.0f}" for count in counts),
            *(f"{seconds[way] / seconds[base]:.2f}" for base in bases),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--epochs", type=int, metavar="N", help="of every training (default: the space's)")
    add("--trials", type=int, nargs="+", default=[3, 16], metavar="N", help=TRIALS)
    add("--seeds", type=int, default=3, metavar="N", help="reported seeds of part 3 (3)")
    add("--rounds", type=int, default=3, metavar="N", help="of part 2, and of its medians (3)")
    add("--draws", type=int, default=5, metavar="N", help="replays of each search (5)")
    asked = parser.parse_args()
    console = Console(width=120, highlight=False)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            folder=Path(folder), epochs=asked.epochs, seeds=asked.seeds, draws=asked.draws
        )
        main_job(bench, asked.trials[0], console)
        pace = overhead_of_ray(bench, asked.rounds, console)
        compare_work(bench, pace, asked.trials, console)


if __name__ == "__main__":
    main()
