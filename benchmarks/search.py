"""What a search finds for the epochs that it spends, ours against others.

    python -m benchmarks.search [--seeds N] [--variants]
    python -m benchmarks.search --record FILE [--configurations N] [--data DIR]

The second trains the embedded STILT net, in short (one segment, crops of 40 pixels, 9 epochs), at
Sobol points of what its study searches, and writes the validation top-1 of the search's arm by
epoch and λ. ``search_curves.csv`` holds 38 such configurations, eight of them also from another
seed and on a third of the videos; its first lines name the hardware. The first runs searches on
curves between these: an interpolation, with the noise of another seed. All searches are at rungs
1, 3 and 9 and choose the best latest value. Printed is what the choice is worth without noise.

As measured with 20 seeds (95 % intervals; a left-out configuration's last top-1 is predicted to
4.2 points RMS, the mean of all to 24.6; the best that there is to find has 83.9 %):

- Up to 100 epochs no method differs from ours beyond chance, at 2 and 8 places; nor does Tune's
  ASHA + TPE at any budget, so that order decides and not time costs no quality here.
- Ours is worse than full trainings from 200 epochs on, by 0.3 to 0.8 points; at 2 places the
  interval leaves zero out at 200 epochs against TPE in full (-0.7 ± 0.6) and at 400 against random
  in full (-0.8 ± 0.6). What looks best at epoch 3 is 4.6 points below the best at the end.
- Of ours, on 8 places, no pruning at all is better at 400 epochs (by 0.7 ± 0.5); lag 1, η 2, no
  rung at epoch 1 and Sobol points alone are within chance at every budget.
- Proxies: none is kept. Kendall's τ with the full training is 0.81 (0.71 to 0.88) after epoch 1,
  0.82 (0.69 to 0.91) after epoch 3, and 0.87 (0.56 to 1.00; 8 configurations) on a third of the
  videos, which is but 2.2 times as cheap; another seed's full trainings have 0.98. Choosing by them
  loses 2.6, 4.6 and 2.6 points. Smaller crops weren't tried.

The accuracy depends on little but the learning rate here, and λ is exact at no cost; a space whose
parameters interact may tell methods apart that this one doesn't.
"""

import argparse
import csv
import heapq
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from scipy.stats import t as student
from scipy.stats.qmc import Sobol

import search_spaces
from benchmarks.flow import processor
from search_spaces.space import Choice, Parameter, Real
from study.data.clips.dataset import ClipDataset
from study.data.store.embedded import prepare_embedded
from study.job import build_model
from study.request import Request, Study, check_request
from study.results.rows import validation_accuracy
from study.scores import Scores
from study.search import Readings, Search, Trial, default_rungs, trials_of
from study.training.clips import clip_settings
from study.training.loop import train

CURVES = Path(__file__).with_name("search_curves.csv")
EPOCHS = 9
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
MIDDLE = LAMBDAS.index(1.0)
RATE = 0  # the learning rate's place among the parameters
BUDGETS = (25, 50, 100, 200, 400)
PLACES = (2, 8)
SPREAD = 0.3
Array = NDArray[np.float64]
FEWER_CONFIGURATIONS = 8  # are trained in the other setups


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How the configurations are trained: in full, in full from another seed, or for less.

    Attributes:
        every: One in so many training videos is trained on.
        seed: Of weights, order and augmentation.
    """

    every: int = 1
    seed: int = 0


SETUPS = {
    "full": Setup(),
    "reseeded": Setup(seed=1),
    "videos": Setup(every=3),
}


def recorded_study(store: Path) -> Study:
    """The embedded study of STILT, with one segment a clip and smaller crops to be cheap."""
    return check_request(
        Request(
            space=search_spaces.get("stilt"),
            store=store,
            results=str(store.with_name("results")),  # nothing is written there
            changes={"segments": 1, "test_segments": 1, "crop_size": 40, "epochs": EPOCHS},
        )
    )


@cache
def searched_parameters() -> tuple[Parameter, ...]:
    """What the embedded study searches, and λ, which it would choose for each training."""
    space = search_spaces.get("stilt").on("embedded")
    rate, *others = space.parameters_for(space.arm(space.search_arm))
    return (rate, Real(name="fusion_lambda", low=1e-2, high=10.0, log=True), *others)


def design(configurations: int) -> list[Mapping[str, Any]]:
    """Sobol points of all that is trained with; λ isn't, it only fuses."""
    parameters = [one for one in searched_parameters() if one.name != "fusion_lambda"]
    search = Search(
        name="design",
        parameters=tuple(parameters),
        trials=configurations,
        rungs=(EPOCHS,),
        lag=configurations,
        sampler="qmc",
    )
    return [trial.values for trial in trials_of(search, lambda values: Readings())]


def train_one(study: Study, setup: Setup, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Trains a configuration; gives processor seconds and the objective at each λ by epoch."""
    arm, target = study.space.arm(study.space.search_arm), study.targets[0]
    training = replace(study.trial((arm,), target, values), seed=setup.seed)
    parts = study.parts[target.split]
    groups = {video.name: video.group for video in parts.validation}
    model = build_model(
        study.job(training, until=training.hyperparameters.epochs),
        num_classes=len(study.store.annotations.classes),
    )
    clips = {
        name: ClipDataset(
            study.store,
            videos,
            inputs=model.inputs,
            clip=clip_settings(training.hyperparameters),
            augment=name == "train",
            seed=training.seed,
        )
        for name, videos in (
            ("train", parts.train[:: setup.every]),
            ("validation", parts.validation),
        )
    }
    lines: list[dict[str, Any]] = []
    began = time.process_time()

    def validated(epoch: int, scores: Scores) -> None:
        nonlocal began
        seconds = time.process_time() - began
        reached = {
            f"lambda_{weight:g}": round(
                validation_accuracy(arm.fusion, scores, groups=groups, fusion_lambda=weight), 4
            )
            for weight in LAMBDAS
        }
        lines.append({"epoch": epoch, "seconds": round(seconds, 2), **reached})
        began = time.process_time()

    train(
        model,
        clips["train"],
        clips["validation"],
        hyperparameters=training.hyperparameters,
        seed=training.seed,
        validated=validated,
    )
    yield from lines


def record(path: Path, configurations: int, store: Path | None) -> None:
    """Trains the design and writes its curves, configuration by configuration."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, path.open("w", newline="") as file:
        where = store or Path(prepare_embedded(Path(folder) / "store").path)
        study = recorded_study(where)
        file.write(
            f"# python -m benchmarks.search --record FILE --configurations {configurations}\n"
            f"# {processor()}, 1 thread, torch {torch.__version__}\n"
        )
        writer = None
        for name, setup in SETUPS.items():
            wanted = configurations if name == "full" else min(configurations, FEWER_CONFIGURATIONS)
            for number, values in enumerate(design(wanted)):
                for line in train_one(study, setup, values):
                    line = {"setup": name, "configuration": number, **values, **line}
                    if writer is None:
                        writer = csv.DictWriter(file, list(line))
                        writer.writeheader()
                    writer.writerow(line)
                file.flush()
                print(name, number, flush=True)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The recorded curves of a setup.

    Attributes:
        values: Each of C configurations, by parameter.
        points: The configurations in the unit cube, (C, parameters).
        top1: The objective by epoch and λ, (C, epochs, λ).
        seconds: Processor seconds of a training, the mean.
    """

    values: list[dict[str, float]]
    points: Array
    top1: Array
    seconds: float


def read_curves(path: Path) -> dict[str, Curves]:
    """Reads what `record` wrote, by setup."""
    with path.open() as file:
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for line in lines:
        found.setdefault(line["setup"], {}).setdefault(line["configuration"], []).append(line)
    return {
        setup: Curves(
            values=(values := [_values(epochs[0]) for epochs in of_setup.values()]),
            points=np.array([in_unit_cube(one) for one in values]),
            top1=np.array(
                [
                    [[float(line[f"lambda_{weight:g}"]) for weight in LAMBDAS] for line in epochs]
                    for epochs in of_setup.values()
                ]
            ),
            seconds=mean(
                sum(float(line["seconds"]) for line in epochs) for epochs in of_setup.values()
            ),
        )
        for setup, of_setup in found.items()
    }


def _values(line: Mapping[str, str]) -> dict[str, float]:
    return {
        parameter.name: float(line[parameter.name])
        for parameter in searched_parameters()
        if parameter.name != "fusion_lambda"
    }


def in_unit_cube(values: Mapping[str, float]) -> list[float]:
    """Returns a configuration's coordinates from 0 to 1, λ left out."""
    coordinates = []
    for parameter in searched_parameters():
        if parameter.name == "fusion_lambda":
            continue
        value = values[parameter.name]
        if isinstance(parameter, Real):
            coordinates.append(math.log(value / parameter.low, parameter.high / parameter.low))
        else:
            assert isinstance(parameter, Choice)
            coordinates.append(parameter.choices.index(value) / (len(parameter.choices) - 1))
    return coordinates


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Curves of any configuration: a mean of the recorded ones, nearer ones weighing more.

    The weights are Gaussian in the distance (Nadaraya and Watson's regression, 1964), which counts
    the learning rate more than the rest.

    Attributes:
        full: The recorded curves.
        noise: What one training differs by from another that differs in its seed alone, by √2:
            (configurations, epochs, λ); the first of those in `full`, in their order.
        rate_scale: The learning rate's weight in the distance.
        bandwidth: The Gaussian's, in the scaled unit cube.
    """

    full: Curves
    noise: Array
    rate_scale: float
    bandwidth: float

    def weights(self, point: Array) -> Array:
        """Returns what each recorded curve weighs at a point of the unit cube, (C,)."""
        scale = np.ones(len(point))
        scale[RATE] = self.rate_scale
        squares = (((self.full.points - point) * scale) ** 2).sum(axis=1)
        weights: Array = np.exp(-(squares - squares.min()) / (2 * self.bandwidth**2))
        return weights

    def mean(self, point: Array, *, without: int | None = None) -> Array:
        """Returns the expected curve at each λ, (epochs, λ)."""
        weights = self.weights(point)
        if without is not None:
            weights[without] = 0
        return np.tensordot(weights / weights.sum(), self.full.top1, 1)

    def left_out_errors(self) -> Array:
        """Returns recorded less predicted, each from all others, (C, epochs, λ)."""
        predicted = [self.mean(point, without=c) for c, point in enumerate(self.full.points)]
        return self.full.top1 - np.array(predicted)

    def curves(self, values: Mapping[str, float], draw: int) -> tuple[Array, float]:
        """Returns what a training of a configuration shows by epoch, and its true last value.

        Its noise is that of a reseeded training, one of the nearer more likely, with either sign.
        """
        rng = random.Random(f"{draw}/{sorted(values.items())}")
        point = np.array(in_unit_cube(values))
        chances = self.weights(point)[: len(self.noise)] + 1e-12
        noise = self.noise[rng.choices(range(len(self.noise)), chances.tolist())[0]] * rng.choice(
            (-1, 1)
        )
        expected = self.mean(point)
        return (
            np.clip(_at_lambda(expected + noise, values["fusion_lambda"]), 0, 1),
            float(_at_lambda(expected, values["fusion_lambda"])[-1]),
        )


def _at_lambda(curves: Array, fusion_lambda: float) -> Array:
    """Returns the curve at a λ between those recorded, (epochs,)."""
    return np.array(
        [np.interp(math.log(fusion_lambda), np.log(LAMBDAS), of_epoch) for of_epoch in curves]
    )


def fit_surrogate(curves: Mapping[str, Curves]) -> Surrogate:
    """Returns the surrogate of the least squared error at the last epoch, leaving one out."""
    full, again = curves["full"], curves["reseeded"]
    noise = (again.top1 - full.top1[: len(again.top1)]) / 2**0.5
    candidates = [
        Surrogate(full=full, noise=noise, rate_scale=scale, bandwidth=bandwidth)
        for scale in (1.0, 2.0, 4.0, 8.0, 16.0)
        for bandwidth in (0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)
    ]
    return min(candidates, key=lambda one: float((one.left_out_errors()[:, -1] ** 2).mean()))


@dataclass(frozen=True, slots=True)
class Step:
    """Training a trial up to an epoch."""

    trial: int
    until: int


class Method(Protocol):
    """What decides which trial trains next."""

    values: list[Mapping[str, Any]]
    """Each trial's values by parameter, in the order of proposal."""

    def next_step(self) -> Step | None:
        """Returns what a free place trains, or None while it must wait."""

    def ended(self, step: Step, value: float) -> None:
        """Receives the objective at a step's last epoch."""


class Ours:
    """`study.search`, its trials' earliest first, as the study's queue has them."""

    def __init__(self, seed: int, **settings: Any) -> None:
        self._search = Search(
            **{
                "name": "ours",
                "parameters": searched_parameters(),
                "trials": 100_000,
                "rungs": default_rungs(EPOCHS),
                "seed": seed,
                **settings,
            }
        )
        self._readings: dict[str, dict[int, float]] = {}
        self._busy: set[int] = set()
        self._trials: tuple[Trial, ...] = ()
        self._replay()

    def _replay(self) -> None:
        self._trials = trials_of(
            self._search, lambda values: Readings(values=self._readings.get(str(values), {}))
        )
        self.values = [trial.values for trial in self._trials]

    def next_step(self) -> Step | None:
        for trial in self._trials:
            if trial.state == "running" and trial.number not in self._busy:
                assert trial.next_rung is not None
                self._busy.add(trial.number)
                return Step(trial.number, trial.next_rung)
        return None

    def ended(self, step: Step, value: float) -> None:
        self._busy.remove(step.trial)
        self._readings.setdefault(str(self.values[step.trial]), {})[step.until] = value
        self._replay()


class Asynchronous:
    """A sampler that is asked whenever a place is free, as in a conversation with Ray Tune.

    With `halving` a trial is stopped as Tune's ``ASHAScheduler`` stops it (`stopped_by_asha`),
    and told to Optuna with the value that it had, as Tune's ``OptunaSearch`` does.
    """

    def __init__(self, sampler: BaseSampler, *, halving: bool) -> None:
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._rungs: dict[int, list[float]] = (
            {epoch: [] for epoch in default_rungs(EPOCHS)} if halving else {EPOCHS: []}
        )
        self._going_on: list[Step] = []
        self._trials: list[optuna.Trial] = []
        self.values: list[Mapping[str, Any]] = []

    def next_step(self) -> Step | None:
        if self._going_on:
            return self._going_on.pop()
        trial = self._study.ask()
        for parameter in searched_parameters():
            parameter.suggest(trial)
        self._trials.append(trial)
        self.values.append(trial.params)
        return Step(trial.number, min(self._rungs))

    def ended(self, step: Step, value: float) -> None:
        recorded = self._rungs[step.until]
        stopped = stopped_by_asha(value, recorded)
        recorded.append(value)
        if stopped or step.until == EPOCHS:
            self._study.tell(self._trials[step.trial], value)
        else:
            later = min(epoch for epoch in self._rungs if epoch > step.until)
            self._going_on.append(Step(step.trial, later))


def stopped_by_asha(value: float, recorded: Sequence[float], eta: int = 3) -> bool:
    """Whether Ray Tune's asynchronous halving stops a trial, given the earlier values at a rung."""
    return bool(recorded) and value < float(np.percentile(recorded, (1 - 1 / eta) * 100))


METHODS: dict[str, Callable[[int], Method]] = {
    "ours": Ours,
    "ASHA + TPE (Tune)": lambda seed: Asynchronous(TPESampler(seed=seed), halving=True),
    "random, in full": lambda seed: Asynchronous(RandomSampler(seed=seed), halving=False),
    "TPE, in full": lambda seed: Asynchronous(TPESampler(seed=seed), halving=False),
}
VARIANTS: dict[str, Callable[[int], Method]] = {
    "lag 1": partial(Ours, lag=1),
    "η 2, same rungs": partial(Ours, eta=2),
    "rung 3 alone": partial(Ours, rungs=(3, EPOCHS)),
    "no pruning": partial(Ours, rungs=(EPOCHS,)),
    "Sobol alone": partial(Ours, sampler="qmc"),
}


def run(method: Method, surrogate: Surrogate, *, places: int, draw: int) -> list[float]:
    """Runs a search until the greatest budget is spent.

    An epoch of a trial takes a time of its own, spread log-normally by 30 %; an epoch is spent
    when it ends, wherever. A search chooses the trial whose latest value is best, finished or
    not, as Tune does.

    Returns:
        The true last value of the chosen configuration at each of `BUDGETS`.
    """
    curves: dict[int, tuple[Array, float]] = {}
    running: list[tuple[float, int, int, Step]] = []  # when an epoch ends, trial, epoch
    reached: dict[int, int] = {}
    now, spent = 0.0, 0
    latest: dict[int, float] = {}
    found: list[float] = []

    def start_epoch(trial: int, step: Step) -> None:
        takes = random.Random(f"{draw}/{trial}").lognormvariate(0, SPREAD)
        heapq.heappush(running, (now + takes, trial, reached.get(trial, 0) + 1, step))

    while len(found) < len(BUDGETS):
        while len(running) < places and (step := method.next_step()) is not None:
            if step.trial not in curves:
                curves[step.trial] = surrogate.curves(method.values[step.trial], draw)
            start_epoch(step.trial, step)
        now, trial, epoch, step = heapq.heappop(running)
        reached[trial] = epoch
        spent += 1
        latest[trial] = value = float(curves[trial][0][epoch - 1])
        if epoch < step.until:
            start_epoch(trial, step)
        else:
            method.ended(step, value)
        if spent == BUDGETS[len(found)]:
            found.append(curves[max(latest, key=latest.__getitem__)][1])
    return found


def interval(values: Array) -> tuple[float, float]:
    """Returns the mean and half the 95 % interval (Student's t)."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(half)


def compare(
    methods: Mapping[str, Callable[[int], Method]],
    surrogate: Surrogate,
    *,
    places: int,
    seeds: int,
    console: Console,
) -> None:
    """Prints what each method finds, and ours less each other, said where it isn't chance."""
    found = {
        name: np.array(
            [run(make(seed), surrogate, places=places, draw=seed) for seed in range(seeds)]
        )
        for name, make in methods.items()
    }
    table = Table(
        f"{places} places",
        *(f"{budget} epochs" for budget in BUDGETS),
        title="True last validation top-1 of the chosen configuration, %",
    )
    for name, values in found.items():
        columns = [interval(100 * column) for column in values.T]
        table.add_row(name, *(f"{middle:.1f} ± {half:.1f}" for middle, half in columns))
    for name, values in list(found.items())[1:]:
        cells = []
        for column in (100 * (found["ours"] - values)).T:
            middle, half = interval(column)
            sign = "" if abs(middle) <= half else " better" if middle > 0 else " WORSE"
            cells.append(f"{middle:+.1f} ± {half:.1f}{sign}")
        table.add_row(f"ours less {name}", *cells)
    console.print(table)


def show_surrogate(surrogate: Surrogate, console: Console) -> None:
    """Prints how well the surrogate knows a configuration that it hasn't seen."""
    top1 = surrogate.full.top1
    errors = surrogate.left_out_errors()[:, -1]
    constant = top1[:, -1] - top1[:, -1].mean(axis=0)
    correlation = kendalltau(top1[:, -1, MIDDLE], (top1[:, -1] - errors)[:, MIDDLE]).statistic
    points = Sobol(surrogate.full.points.shape[1], rng=np.random.default_rng(0)).random(1024)
    best = max(float(surrogate.mean(point)[-1].max()) for point in points)
    console.print(
        f"{len(top1)} recorded configurations. Surrogate: learning rate × "
        f"{surrogate.rate_scale:g}, bandwidth {surrogate.bandwidth:g}. Left out, the last top-1 is "
        f"predicted with an RMS error of {100 * (errors**2).mean() ** 0.5:.1f} points (by the mean "
        f"of all: {100 * (constant**2).mean() ** 0.5:.1f}), Kendall's τ {correlation:.2f}; another "
        f"seed changes it by {100 * (surrogate.noise[:, -1] ** 2).mean() ** 0.5:.1f} (standard "
        f"deviation). Best that there is to find: {100 * best:.1f} %."
    )


def show_proxies(curves: Mapping[str, Curves], console: Console) -> None:
    """Prints how well cheaper trainings rank configurations as the full one does, at λ 1.

    Another seed's full trainings show what chance alone costs.
    """
    full = curves["full"]
    last = full.top1[:, -1, MIDDLE]
    proxies = [
        (f"{epoch} of {EPOCHS} epochs", full.top1[:, epoch - 1, MIDDLE], EPOCHS / epoch)
        for epoch in default_rungs(EPOCHS)[:-1]
    ] + [
        (name, curves[name].top1[:, -1, MIDDLE], full.seconds / curves[name].seconds)
        for name in ("videos", "reseeded")
    ]
    table = Table(
        *("trained on", "cheaper", "configurations", "Kendall's τ", "top-1 lost by its choice, %"),
        title="Agreement with the full training (bootstrap over configurations, 95 %)",
    )
    for name, values, cheaper in proxies:
        own = last[: len(values)]
        rng = np.random.default_rng(0)
        picks = rng.integers(len(own), size=(2000, len(own)))
        taus = [kendalltau(values[pick], own[pick]).statistic for pick in picks]
        lost = [own[pick].max() - own[pick][values[pick].argmax()] for pick in picks]
        low, high = np.nanpercentile(taus, (2.5, 97.5))
        table.add_row(
            name,
            f"{cheaper:.1f}×",
            str(len(own)),
            f"{kendalltau(values, own).statistic:.2f} ({low:.2f} to {high:.2f})",
            f"{100 * np.mean(lost):.1f} (0.0 to {100 * np.percentile(lost, 95):.1f})",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--record", type=Path, metavar="FILE", help="train and write the curves instead")
    add("--configurations", type=int, default=64, metavar="N", help="to record (default: 64)")
    add("--data", type=Path, metavar="DIR", help="the embedded clip store (default: a new one)")
    add("--seeds", type=int, default=20, metavar="N", help="searches of each kind (default: 20)")
    add("--variants", action="store_true", help="compare ours with other settings of its own")
    arguments = parser.parse_args()
    if arguments.record is not None:
        record(arguments.record, arguments.configurations, arguments.data)
        return
    console = Console(width=120)
    curves = read_curves(CURVES)
    surrogate = fit_surrogate(curves)
    show_surrogate(surrogate, console)
    show_proxies(curves, console)
    methods = {"ours": METHODS["ours"], **VARIANTS} if arguments.variants else METHODS
    for places in PLACES:
        compare(methods, surrogate, places=places, seeds=arguments.seeds, console=console)


if __name__ == "__main__":
    main()
