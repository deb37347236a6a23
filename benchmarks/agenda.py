"""What it costs that order decides and not time: the agenda's queue on simulated places.

    python -m benchmarks.agenda [--draws N] [--trials N]

1. Makespan of one search of 64 trials, and of four side by side, against asynchronous successive
   halving as it is published (Li et al., MLSys 2020, algorithm 2), which promotes whatever is in
   the best 1/η of what has arrived, on 2 and 8 places, for several lags.
2. The share of place-time that is busy in a study of ``--space all`` (a search a net and split,
   then the reported seeds), for several lags and orders of the queue, where all
   arms' epochs take equally long, and where they take as long as their operations say
   (``benchmarks/models.csv``). Beside it what no order can exceed: the work over the longest
   chain of jobs.

Nothing trains: a job takes its epochs' time, spread log-normally by 30 %, and values are drawn.
Printed is the mean over the draws with its 95 % interval.
"""

import argparse
import csv
import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from search_spaces.all import all_systems
from search_spaces.space import Real
from study.agenda import Agenda, ArmSearch, Finished, Found, Job, next_jobs
from study.plan import Plan
from study.search import Search

SPREAD = 0.3
RUNGS = (3, 9, 27)
LAGS = (4, 8, 16, 32)
PLACES = (2, 8, 64)
Order = Callable[[Sequence[Job]], Sequence[Job]]


@dataclass(frozen=True)
class DrawnTraining:
    """A training that takes drawn times and reaches drawn values."""

    training_id: str
    cost: float = 1.0
    starts: Mapping[str, str] = field(default_factory=dict)
    hyperparameters: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(epochs=RUNGS[-1])
    )

    @property
    def scoring_id(self) -> str:
        return self.training_id


@cache
def duration(draw: int, key: str, start: int, until: int) -> float:
    """How long a training's epochs up to ``until`` take, in epochs of an average training."""
    return (until - start) * random.Random(f"{draw}/{key}/{until}").lognormvariate(0, SPREAD)


@cache
def value(draw: int, key: str, epoch: int) -> float:
    """What a training reaches: its own level, and noise that is gone at its last epoch."""
    level = random.Random(f"{draw}/{key}").gauss(0, 1)
    noise = random.Random(f"{draw}/{key}/{epoch}").gauss(0, 1)
    return level + noise * (1 - epoch / RUNGS[-1])


@dataclass
class Places:
    """Places on which jobs run, and the time that has passed."""

    free: int
    now: float = 0.0
    busy: float = 0.0
    running: list[tuple[float, str, int]] = field(default_factory=list)

    def start(self, key: str, until: int, takes: float) -> None:
        self.free -= 1
        self.busy += takes
        heapq.heappush(self.running, (self.now + takes, key, until))

    def next_end(self) -> tuple[str, int]:
        """Waits for the first job to end; returns its training and epoch."""
        self.now, key, until = heapq.heappop(self.running)
        self.free += 1
        return key, until


def run_agenda(agenda: Agenda, *, places: int, draw: int, order: Order = tuple) -> Places:
    """Runs a study on so many places."""
    world = Places(free=places)
    at: dict[str, int] = {}
    values: dict[tuple[str, str], dict[int, float]] = {}
    scored: dict[str, frozenset[str]] = {}
    jobs: dict[str, Job] = {}
    while True:
        outlook = next_jobs(agenda, Finished(values=values, parts=scored))
        if outlook.done:
            return world
        for job in order(outlook.jobs):
            key = job.training.training_id
            if world.free and key not in jobs:
                jobs[key] = job
                start = at.get(key, 0)
                takes = job.training.cost * duration(draw, key, start, max(job.until, start))
                world.start(key, job.until, takes)
        key, until = world.next_end()
        job = jobs.pop(key)
        at[key] = until
        if job.parts:
            scored[key] = scored.get(key, frozenset()) | set(job.parts)
        reached = {epoch: value(draw, key, epoch) for epoch in RUNGS if epoch <= until}
        values.update({(one.search.name, key): reached for one in agenda.searches})


def run_asha(searches: int, trials: int, *, places: int, draw: int, eta: int = 3) -> Places:
    """Runs searches side by side as published: the highest promotion first, then a new trial."""
    world = Places(free=places)
    rungs = [[[] for _ in RUNGS] for _ in range(searches)]  # (value, key) of those arrived
    promoted: list[set[tuple[str, int]]] = [set() for _ in range(searches)]
    begun = [0] * searches

    def job_of(search: int) -> tuple[str, int] | None:
        for level in reversed(range(len(RUNGS) - 1)):
            arrived = sorted(rungs[search][level], reverse=True)
            for _, key in arrived[: len(arrived) // eta]:
                if (key, level) not in promoted[search]:
                    promoted[search].add((key, level))
                    return key, level + 1
        if begun[search] == trials:
            return None
        begun[search] += 1
        return f"{search}/{begun[search] - 1}", 0

    while True:
        for turn in sorted(range(searches), key=lambda search: begun[search]):
            while world.free and (job := job_of(turn)) is not None:
                key, level = job
                start = RUNGS[level - 1] if level else 0
                world.start(key, level, duration(draw, key, start, RUNGS[level]))
        if not world.running:
            return world
        key, level = world.next_end()
        rungs[int(key.split("/")[0])][level].append((value(draw, key, RUNGS[level]), key))


def searches_alone(searches: int, trials: int, lag: int) -> Agenda:
    """Searches side by side, and no ablation."""
    return Agenda(
        searches=tuple(
            ArmSearch(
                search=Search(
                    name=str(number),
                    parameters=(Real(name="rate", low=0.0, high=1.0),),
                    trials=trials,
                    rungs=RUNGS,
                    lag=lag,
                    sampler="random",
                    seed=number,
                ),
                make_training=_namer(str(number)),
                arms=(),
                target="",
            )
            for number in range(searches)
        ),
        plan=lambda found: Plan(rows=(), trainings={}),
        parts=lambda row, training: (),
    )


def _namer(search: str, cost: float = 1.0) -> Callable[[Mapping[str, Any]], DrawnTraining]:
    return lambda values: DrawnTraining(f"{search}/{sorted(values.items())}", cost)


def study_of_all(
    *, trials: int | None, splits: int, seeds: int, lag: int, costs: Mapping[str, float]
) -> Agenda:
    """The study of ``--space all``: a search a net and split, then fresh seeds.

    Each arm has a net of its own.
    """
    space = all_systems()
    searches, cost = {}, {}
    for split in range(splits):
        for arm in space.arms:
            parameters = space.parameters_for(arm)
            name = f"{arm.name} split {split}"
            cost[name] = costs.get(arm.name, 1.0)
            searches[name] = ArmSearch(
                search=Search(
                    name=name,
                    parameters=parameters,
                    trials=trials or max(10, 4 * len(parameters)),
                    rungs=RUNGS,
                    lag=lag,
                    sampler="random",
                ),
                make_training=_namer(name, cost[name]),
                arms=(arm.name,),
                target=f"split {split}",
            )

    def plan(found: Mapping[str, Found]) -> Plan:
        drawn = [
            (name, DrawnTraining(f"{name}/seed {seed}", cost[name]))
            for name in found
            for seed in range(1, seeds + 1)
        ]
        rows = [
            SimpleNamespace(arm=SimpleNamespace(name=name), distinct_trainings=(one,))
            for name, one in drawn
        ]
        trainings = {one.training_id: one for _, one in drawn}
        return Plan(rows=tuple(rows), trainings=trainings)

    return Agenda(
        searches=tuple(searches.values()),
        plan=plan,
        parts=lambda row, training: ("test",),
        cost=lambda training: training.cost,
    )


def operations() -> dict[str, float]:
    """The arms' operations a clip, as a multiple of the mean."""
    with (Path(__file__).parent / "models.csv").open() as file:
        gflops = {line["arm"]: float(line["gflops"]) for line in csv.DictReader(file)}
    middle = mean(gflops.values())
    return {name: one / middle for name, one in gflops.items()}


def search_after_search(jobs: Sequence[Job]) -> Sequence[Job]:
    """An order to compare with: the ablation first, then all of one search before the next."""
    return sorted(jobs, key=lambda job: (job.search or "", job.trial or 0))


def interval(draws: Iterable[float]) -> str:
    """Mean and 95 % interval (Student's t)."""
    values = list(draws)
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.2f} ± {half:.2f}"


def compare_with_asha(draws: int, console: Console) -> None:
    """Prints how much longer the agenda takes than asynchronous halving, and how much it trains.

    The work is the same for every lag: a proposal doesn't change what is trained here. It is more
    than ASHA's, since ⌈n/η⌉ go on where ASHA takes ⌊n/η⌋, and early ones go on among few.
    """
    table = Table(
        *("searches", "places"),
        *(f"lag {lag}" for lag in LAGS),
        "work",
        title="Makespan and work against ASHA, ×",
    )
    for searches in (1, 4):
        for places in (2, 8):
            published = [run_asha(searches, 64, places=places, draw=draw) for draw in range(draws)]
            ratios = []
            for lag in LAGS:
                agenda = searches_alone(searches, 64, lag)
                ours = [run_agenda(agenda, places=places, draw=draw) for draw in range(draws)]
                pairs = list(zip(ours, published, strict=True))
                ratios.append(interval(own.now / theirs.now for own, theirs in pairs))
            work = interval(own.busy / theirs.busy for own, theirs in pairs)
            table.add_row(f"{searches} × 64 trials", str(places), *ratios, work)
    console.print(table)


def show_busy_share(draws: int, trials: int | None, console: Console) -> None:
    """Prints the share of busy place-time of the study of all systems."""
    table = Table(
        *("splits × seeds", "epochs' cost", "lag", "order"),
        *(f"{places} places" for places in PLACES),
        f"{PLACES[-1]}, at best",
        title="Share of busy place-time, --space all",
    )
    unknown = {"cost": lambda training: 1.0}
    for size, how, lag, order, changes in (
        *(((1, 1), how, lag, "agenda", {}) for how in ("equal", "operations") for lag in LAGS[:3]),
        ((1, 1), "operations", 8, "costs unknown", unknown),
        ((1, 1), "operations", 8, "search after search", {}),
        *(((3, 3), how, 8, "agenda", {}) for how in ("equal", "operations")),
    ):
        agenda = study_of_all(
            trials=trials,
            splits=size[0],
            seeds=size[1],
            lag=lag,
            costs=operations() if how == "operations" else {},
        )
        shares = busy_shares(
            replace(agenda, **changes), draws, search_after_search if "after" in order else tuple
        )
        table.add_row(f"{size[0]} × {size[1]}", how, str(lag), order, *shares)
    console.print(table)


def busy_shares(agenda: Agenda, draws: int, order: Order) -> Iterator[str]:
    """The shares on each number of places, then the bound for the last of them.

    With places for all that may run, a study takes its longest chain of jobs; with fewer it takes
    that at least.
    """
    for places in PLACES:
        runs = [run_agenda(agenda, places=places, draw=draw, order=order) for draw in range(draws)]
        yield interval(run.busy / (places * run.now) for run in runs)
    longest = [run_agenda(agenda, places=10**6, draw=draw).now for draw in range(draws)]
    yield interval(
        min(1.0, run.busy / places / chain) for run, chain in zip(runs, longest, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--draws", type=int, default=5, metavar="N", help="simulations of each (default: 5)")
    add(
        "--trials",
        type=int,
        metavar="N",
        help="trials of each search (default: 4 a parameter, at least 10)",
    )
    arguments = parser.parse_args()
    console = Console(width=110)
    compare_with_asha(arguments.draws, console)
    show_busy_share(arguments.draws, arguments.trials, console)


if __name__ == "__main__":
    main()
