"""How often intervals and tests of ``study/results/statistics.py`` are right, by simulation.

    python -m benchmarks.inference [--repetitions N] [--output FILE] [--processes N]

It simulates on all cores, and adds a kind of study to the file when it is done; kinds that the file
has are not simulated again.

Arms of 85 % accuracy judge the same videos. Whether a network gets a video right is a normal
variable's sign: the source video's difficulty (variance 0.45, and 0.08 more of each arm), the
video's own (0.2, and 0.07 of each arm), what is a single network's (0.2), and the training seed's
effect on all videos, of the given standard deviation in points of accuracy. Two networks of one arm
then disagree on 12 % of the videos, two of different arms on 17 %.

Each line is one kind of study: test videos, source videos (of unequal sizes), seeds, and the seed's
effect. Of it are counted, with the default level of 5 %:

- ``type1``: how often a verdict is given though the arms are alike; of ``family`` lines how often
  any is, of five alike arms against a sixth, each tested as one of five.
- ``coverage_0``, ``coverage_1``: how often the interval holds the truth, of arms that are alike and
  of those that are a point apart; ``power_1``: how often the latter get the right verdict.
- ``half_width``: the median, in points.
- ``groups_only_type1``: the same of a test over source videos alone, which takes the mean over
  seeds for the arm.

The truth is that of other seeds on other source videos. With one seed it is that of the two
networks at hand on other source videos; with fewer than five source videos there is no verdict, and
it is that of other seeds on the same videos.

Kinds of arms: those of ``equal`` and ``family`` have the same seed effect; of ``unequal`` ones the
first has a quarter of it; ``shared`` ones read the same trainings, so that their difference has a
seed effect a quarter as large; ``easy`` ones are right on 98 % of the videos, so that few videos
tell them apart.

``inference.csv`` holds the lines of 1,000 repetitions (standard error of a share of 0.05: 0.007).
Where a verdict is given, type-I error is 0.055 at most and coverage 0.941 at least; of intervals
over seeds alone, 0.943. A test over source videos alone is wrong in up to 46 % of cases with two or
more seeds. One seed's verdict is about two networks: as one about designs, it would be wrong in up
to 53 %, which is why it doesn't claim that. Two seeds show next to nothing.
"""

import argparse
import csv
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import ndtr, ndtri, stdtrit

from study.results.statistics import LEAST_GROUPS, LEVEL, Aligned, Estimate

GROUP, GROUP_ARM, VIDEO, VIDEO_ARM, SINGLE = 0.45, 0.08, 0.2, 0.07, 0.2  # variances, sum 1
SEEDS = (1, 2, 3, 5, 10)
EFFECTS = (0.0, 0.5, 1.0, 2.0)  # standard deviations, points
APART = 0.01  # a point
FAMILY = 6  # arms, of which the first is the reference
MOST = max(SEEDS)
UNEVEN = 8.0  # of the Dirichlet distribution that source videos' sizes come from


@dataclass(frozen=True)
class Case:
    """One kind of study, for every number of seeds."""

    kind: str
    videos: int
    groups: int
    effect: float


@dataclass(frozen=True)
class Drawn:
    """What one repetition drew, of A alike arms and one that is a point apart from the first.

    Attributes:
        correct: (A + 1, K, V).
        group: (V,).
        designs: (A + 1,) accuracies over seeds and videos.
        networks: (A + 1, K) accuracies over videos.
        on_these: (A + 1,) accuracies over seeds on these videos.
    """

    correct: np.ndarray
    group: np.ndarray
    designs: np.ndarray
    networks: np.ndarray
    on_these: np.ndarray


def cases() -> Iterator[Case]:
    for videos, groups, effect in product((3783, 240), (2, 5, 25, 400), EFFECTS):
        yield Case("equal", videos, min(groups, videos), effect)
    for kind, (videos, groups) in product(
        ("unequal", "shared", "family"), ((3783, 400), (240, 240))
    ):
        yield Case(kind, videos, groups, 2.0)
    yield from (Case("easy", 240, groups, 0.5) for groups in (25, 240))


def draw(case: Case, rng: np.random.Generator) -> Drawn:
    def normal(variance: float, *shape: int) -> np.ndarray:
        return math.sqrt(variance) * rng.standard_normal(shape, dtype=np.float32)

    arms = FAMILY if case.kind == "family" else 2
    accuracy = 0.98 if case.kind == "easy" else 0.85
    slope = math.exp(-(float(ndtri(accuracy)) ** 2) / 2) / math.sqrt(2 * math.pi)
    variance = np.full(arms, (case.effect / 100 / slope) ** 2)
    if case.kind == "unequal":
        variance[0] /= 16
    if case.kind == "shared":  # the difference of the arms' own parts has 1/16
        seed = normal(variance[0] * 31 / 32, MOST) + normal(variance[0] / 32, arms, MOST)
    else:
        seed = np.stack([normal(of, MOST) for of in variance])
    part = rng.dirichlet(np.full(case.groups, UNEVEN))
    sizes = 1 + rng.multinomial(case.videos - case.groups, part)
    group = np.repeat(np.arange(case.groups), sizes)
    common = normal(GROUP, case.groups)[group] + normal(VIDEO, case.videos)
    of_arm = normal(GROUP_ARM, arms, case.groups)[:, group] + normal(VIDEO_ARM, arms, case.videos)
    single = normal(SINGLE, arms, MOST, case.videos)
    drawn = [*range(arms), 1]  # the last has the second's numbers
    designs = np.array([accuracy] * arms + [accuracy + APART])
    mean = (ndtri(designs) * np.sqrt(1 + variance[drawn])).astype(np.float32)[:, None]
    fixed = mean + common + of_arm[drawn]
    return Drawn(
        correct=np.stack(
            [f + seed[a][:, None] + single[a] > 0 for f, a in zip(fixed, drawn, strict=True)]
        ),
        group=group,
        designs=designs,
        networks=ndtr(mean + seed[drawn]),
        on_these=ndtr(fixed / np.sqrt(SINGLE + variance[drawn])[:, None]).mean(1),
    )


def estimate(case: Case, drawn: Drawn, arm: int, seeds: int) -> Estimate:
    one = np.zeros(case.videos, int)
    pair = Aligned(
        correct=drawn.correct[[0, arm], :seeds],
        nets=[0, 0] if case.kind == "shared" else [0, 1],
        split=one,
        group=drawn.group,
        label=one,
    )
    return pair.contrast([-1, 1])


def truth(case: Case, drawn: Drawn, arm: int, seeds: int) -> float:
    """Returns what the interval should hold."""
    if case.groups < LEAST_GROUPS:
        known = drawn.on_these
    else:
        known = drawn.networks[:, 0] if seeds == 1 else drawn.designs
    return float(known[arm] - known[0])


def key(case: Case, repetitions: int) -> dict[str, Any]:
    """Returns what tells the lines of a case from others."""
    return {
        "arms": case.kind,
        "videos": case.videos,
        "groups": case.groups,
        "seed_effect": case.effect,
        "repetitions": repetitions,
    }


def lines(case: Case, repetitions: int) -> Iterator[dict[str, Any]]:
    """Simulates a case; yields its line for each number of seeds."""
    rng = np.random.default_rng(0)
    counts: dict[tuple[int, str], list[float]] = {}
    for _ in range(repetitions):
        drawn = draw(case, rng)
        for seeds in SEEDS:
            for name, value in outcome(case, drawn, seeds).items():
                counts.setdefault((seeds, name), []).append(value)
    verdict = case.groups >= LEAST_GROUPS
    for seeds in SEEDS:
        scope = "designs" if seeds > 1 else "these networks"
        numbers = {name: counts.get((seeds, name)) for name in NUMBERS}
        if case.kind == "family":
            numbers = {"type1": counts[seeds, "family_type1"]}
        yield {
            **key(case, repetitions),
            "seeds": seeds,
            "verdict": scope if verdict else "none: too few source videos",
            **{name: shown(name, numbers.get(name)) for name in NUMBERS},
        }


NUMBERS = ("type1", "coverage_0", "coverage_1", "power_1", "half_width", "groups_only_type1")


def shown(name: str, values: Sequence[float] | None) -> str:
    if not values:
        return ""
    middle = np.median(values) if name == "half_width" else np.mean(values)
    return f"{middle:.3f}"


def outcome(case: Case, drawn: Drawn, seeds: int) -> dict[str, float]:
    """Returns what one repetition says of some seeds, as counts of 0 or 1 by name."""
    if case.kind == "family":
        level = LEVEL / (FAMILY - 1)
        found = (excludes(case, drawn, arm, seeds, level) for arm in range(1, FAMILY))
        return {"family_type1": any(found)}
    alike, apart = estimate(case, drawn, 1, seeds), estimate(case, drawn, 2, seeds)
    interval, other = alike.interval(), apart.interval()
    if interval is None or other is None:
        return {}
    values = {
        "coverage_0": interval.low <= truth(case, drawn, 1, seeds) <= interval.high,
        "coverage_1": other.low <= truth(case, drawn, 2, seeds) <= other.high,
        "half_width": 50 * (interval.high - interval.low),
    }
    if alike.generalises:
        only = -stdtrit(case.groups - 1, LEVEL / 2) * alike.group_variance**0.5
        values |= {
            "type1": not values["coverage_0"],
            "power_1": other.low > 0,
            "groups_only_type1": abs(alike.value) > only,
        }
    return values


def excludes(case: Case, drawn: Drawn, arm: int, seeds: int, level: float) -> bool:
    """Returns whether the interval of an alike arm leaves out the truth."""
    interval = estimate(case, drawn, arm, seeds).interval(level)
    return interval is None or not interval.low <= truth(case, drawn, arm, seeds) <= interval.high


def simulated(case: Case, repetitions: int) -> list[dict[str, str]]:
    """Returns a case's lines as they are in a file."""
    return [{name: str(value) for name, value in one.items()} for one in lines(case, repetitions)]


def simulate(
    wanted: Sequence[Case], repetitions: int, file: Path, *, processes: int | None = None
) -> list[dict[str, str]]:
    """Simulates the cases that a file lacks, each in a process, and adds their lines to it.

    Args:
        wanted: The cases.
        repetitions: Of each.
        file: A CSV file, made where it is missing.
        processes: How many at once; None for as many as there are cores.

    Returns:
        The lines of the wanted cases, in their order.
    """
    keys = [{name: str(value) for name, value in key(c, repetitions).items()} for c in wanted]
    there = read(file) if file.exists() else []

    def of_case(case: dict[str, str]) -> list[dict[str, str]]:
        return [line for line in there if case.items() <= line.items()]

    missing = [case for case, one in zip(wanted, keys, strict=True) if not of_case(one)]
    with file.open("a", newline="") as output, ProcessPoolExecutor(processes) as pool:
        for number, found in enumerate(
            pool.map(partial(simulated, repetitions=repetitions), missing), start=1
        ):
            writer = csv.DictWriter(output, list(found[0]), lineterminator="\n")
            if output.tell() == 0:
                writer.writeheader()
            writer.writerows(found)
            output.flush()
            there += found
            print(f"{number} of {len(missing)}: {missing[number - 1]}", file=sys.stderr, flush=True)
    return [line for one in keys for line in of_case(one)]


def read(file: Path) -> list[dict[str, str]]:
    with file.open() as content:
        return list(csv.DictReader(content))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Coverage, type-I error and power.")
    parser.add_argument("--repetitions", type=int, default=1000, help="of each kind (1000)")
    parser.add_argument("--output", type=Path, help="a CSV file to go on with")
    parser.add_argument("--processes", type=int, help="at once (as many as cores)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        file = options.output or Path(folder) / "inference.csv"
        found = simulate(list(cases()), options.repetitions, file, processes=options.processes)
    table = Table(*found[0])
    for line in found:
        table.add_row(*line.values())
    Console(width=160).print(table)
    given = [line for line in found if line["type1"]]
    print("type-I error at most", max(line["type1"] for line in given))
    held = [line[name] for line in given for name in ("coverage_0", "coverage_1") if line[name]]
    print("coverage at least", min(held))


if __name__ == "__main__":
    main()
