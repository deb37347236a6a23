"""What a search finds for the epochs that it spends, ours against others.

    python -m benchmarks.search [--seeds N] [--variants]
    python -m benchmarks.search --record FILE [--configurations N] [--data DIR]

The second trains the embedded study's STILT net, at all of the study's settings, at Sobol points of
what the study searches, and writes its objective by epoch: the validation top-1 of the late
average. It adds a line to the file whenever a training has ended, and trains nothing that the file
has a line of, so it may be killed and started again. ``search_curves.csv`` holds 40 such
configurations; its first lines name the hardware. The first 16 are trained in other ways too:

- from another seed, which shows what chance alone changes;
- on a third of the training videos;
- on smaller inputs, of 28 pixels in the place of 56, in training and validation;
- with frozen backbones: their features of one augmented view of each clip are computed once, and
  only attention and classifiers are trained on these. The embedded net begins with random weights,
  so its features are those of random convolutions. Pretrained ones may rank configurations better.

The first runs searches on curves between the recorded ones: an interpolation, with the noise of
another seed. All searches are at the study's rungs and choose the best latest value. Printed is
what the choice is worth without noise, then how well each cheaper training ranks configurations as
the full one does, and what it loses by its choice.

With 20 seeds ours is ahead of full trainings at 100 epochs (+5.1 ± 4.0 points); no difference from
asynchronous ASHA with TPE is shown at any budget. No cheaper training is kept: epoch 12 of 36
chooses as well as the last at a third of the cost, and the search's rungs use it already. A third
of the videos, smaller crops and frozen backbones are 2.5, 1.7 and 7.7 times cheaper and lose 2.7,
4.8 and 4.9 points by their choice (intervals from 0 to 11).

The accuracy depends on little but the learning rate here; a space whose parameters interact may
tell methods apart that this one doesn't.
"""

import argparse
import csv
import heapq
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from torch import Tensor

import search_spaces
from benchmarks.flow import processor
from models import ModelOutput, VideoModel
from models.stilt import Stilt
from search_spaces.space import Choice, Real
from study.data.clips.dataset import ClipDataset, make_loader
from study.data.clips.transforms import model_inputs
from study.data.store.embedded import prepare_embedded
from study.job import build_model
from study.plan import Training
from study.request import Request, Study, check_request
from study.scores import Scores, top_k_accuracy
from study.search import Readings, Search, Trial, default_rungs, trials_of
from study.training.clips import clip_settings
from study.training.loop import clip_gradients, learning_rate, train, video_losses

CURVES = Path(__file__).with_name("search_curves.csv")
NET = "stil"  # the arm that stands for the searched net
SPACE = search_spaces.get("stilt").on("embedded")
PARAMETERS = SPACE.parameters_for(SPACE.arm(NET))
EPOCHS = int(SPACE.settings.hyperparameters["epochs"])
SMALL_CROP = 28  # pixels, half of the study's 56
RATE = 0  # the learning rate's place among the parameters
BUDGETS = (100, 200, 400, 800, 1600)
PLACES = (2, 8)
SPREAD = 0.3
FEWER_CONFIGURATIONS = 16  # are trained in the other setups
Array = NDArray[np.float64]
Validated = Callable[[int, Scores], None]
"""Receives the validation scores of an epoch, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How the configurations are trained: in full, in full from another seed, or for less.

    Attributes:
        every: One in so many training videos is trained on.
        seed: Of weights, order and augmentation.
        crop_size: Side of the net's input in pixels; None for the study's.
        frozen: Whether the backbones stay as they begin, and their features are computed once.
    """

    every: int = 1
    seed: int = 0
    crop_size: int | None = None
    frozen: bool = False


SETUPS = {
    "full": Setup(),
    "reseeded": Setup(seed=1),
    "a third of the videos": Setup(every=3),
    "smaller crops": Setup(crop_size=SMALL_CROP),
    "frozen backbones": Setup(frozen=True),
}


def recorded_study(store: Path) -> Study:
    """The embedded study of STILT, as it is."""
    return check_request(
        Request(
            space=search_spaces.get("stilt"),
            store=store,
            results=str(store.with_name("results")),  # nothing is written there
        )
    )


def design(configurations: int) -> list[Mapping[str, Any]]:
    """Sobol points of what is searched; more of them begin with the same ones."""
    search = Search(
        name="design",
        parameters=PARAMETERS,
        trials=configurations,
        rungs=(EPOCHS,),
        lag=configurations,
        sampler="qmc",
    )
    return [trial.values for trial in trials_of(search, lambda values: Readings())]


def curve_of(study: Study, setup: Setup, values: Mapping[str, Any]) -> tuple[float, list[float]]:
    """Trains a configuration; returns its processor seconds, and its validation top-1 by epoch."""
    target = study.targets[0]
    training = replace(study.trial((study.space.arm(NET),), target, values), seed=setup.seed)
    if setup.crop_size is not None:
        smaller = replace(training.hyperparameters, crop_size=setup.crop_size)
        training = replace(training, hyperparameters=smaller)
    top1: list[float] = []

    def validated(epoch: int, scores: Scores) -> None:
        late = np.mean(list(scores.scores.values()), axis=0)
        top1.append(top_k_accuracy(late, scores.labels, 1))

    began = time.process_time()
    (train_frozen if setup.frozen else train_whole)(study, training, setup.every, validated)
    return time.process_time() - began, top1


def parts_of(study: Study, training: Training, model: VideoModel, every: int) -> list[ClipDataset]:
    """The augmented training clips, and the validation clips."""
    parts = study.parts[training.target.split]
    return [
        ClipDataset(
            study.store,
            videos,
            inputs=model.inputs,
            clip=clip_settings(training.hyperparameters),
            augment=augment,
            seed=training.seed,
        )
        for videos, augment in ((parts.train[::every], True), (parts.validation, False))
    ]


def new_model(study: Study, training: Training) -> VideoModel:
    job = study.job(training, until=training.hyperparameters.epochs)
    return build_model(job, num_classes=len(study.store.annotations.classes))


def train_whole(study: Study, training: Training, every: int, validated: Validated) -> None:
    model = new_model(study, training)
    train(
        model,
        *parts_of(study, training, model, every),
        hyperparameters=training.hyperparameters,
        seed=training.seed,
        validated=validated,
    )


def train_frozen(study: Study, training: Training, every: int, validated: Validated) -> None:
    """Trains what stands on the backbones, of which each clip's features are computed once."""
    model, hyperparameters = new_model(study, training), training.hyperparameters
    assert isinstance(model, Stilt)
    clips, held_out = (Features.of(model, part) for part in parts_of(study, training, model, every))
    optimizer = torch.optim.SGD(  # parameters without a gradient, the backbones', stay as they are
        model.parameters(),
        lr=hyperparameters.learning_rate,
        momentum=hyperparameters.momentum,
        weight_decay=hyperparameters.weight_decay,
    )
    steps = math.ceil(len(clips.labels) / hyperparameters.batch_size)
    for epoch in range(hyperparameters.epochs):
        rng = np.random.default_rng((training.seed, epoch))
        order = torch.from_numpy(rng.permutation(len(clips.labels)))
        for step, batch in enumerate(order.split(hyperparameters.batch_size), epoch * steps):
            optimizer.param_groups[0]["lr"] = learning_rate(hyperparameters, step, steps)
            losses = video_losses(clips.classified(model, batch), clips.labels[batch])
            weights = hyperparameters.loss_weights
            loss = torch.stack([weights.get(name, 1.0) * x.mean() for name, x in losses.items()])
            optimizer.zero_grad()
            loss.sum().backward()
            if hyperparameters.clip_norm is not None:
                clip_gradients(model, hyperparameters.clip_norm)
            optimizer.step()
        validated(epoch + 1, held_out.scores(model))


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What a net's backbones make of V clips.

    Attributes:
        videos: The videos' names.
        labels: Their classes, (V,); of a mirrored clip, the mirrored video's.
        cells: Of the spatial and of the temporal stream, what attends and is attended, (V, n, D).
    """

    videos: list[str]
    labels: Tensor
    cells: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, model: Stilt, clips: ClipDataset) -> "Features":
        """Computes them at the weights that the backbones have, of one view of each clip."""
        assert model.interaction is not None
        cells, labels = [], []
        hook = model.interaction.register_forward_pre_hook(lambda _, given: cells.append(given))
        batches = [indices.tolist() for indices in torch.arange(len(clips)).split(64)]
        device = torch.device("cpu")
        with torch.no_grad():
            for batch in make_loader(clips, batches, device=device, workers=0):
                model(**model_inputs(batch, device))
                labels.append(batch["label"])
        hook.remove()
        spatial, temporal = map(torch.cat, zip(*cells, strict=True))
        names = [video.name for video in clips.videos]
        return cls(videos=names, labels=torch.cat(labels), cells=(spatial, temporal))

    def classified(self, model: Stilt, batch: Tensor | slice) -> ModelOutput:
        """Passes some of the clips through what stands on the backbones."""
        assert model.interaction is not None
        pooled, _ = model.interaction(*(cells[batch] for cells in self.cells))
        logits = {stream: model.heads[stream](pooled[stream]) for stream in model.streams}
        return ModelOutput(logits=logits, features=pooled)

    def scores(self, model: Stilt) -> Scores:
        """Scores all of the clips."""
        with torch.no_grad():
            logits = self.classified(model, slice(None)).logits
        scores = {stream: one.softmax(-1).numpy() for stream, one in logits.items()}
        return Scores(videos=self.videos, labels=self.labels.numpy(), scores=scores, features={})


def record(path: Path, configurations: int, study: Study) -> None:
    """Trains what the file has no line of, and adds a line for each configuration and setup."""
    torch.set_num_threads(1)
    new = not path.exists() or path.stat().st_size == 0  # killed before its first line
    done = set() if new else {(line["setup"], int(line["configuration"])) for line in read(path)}
    columns = ["setup", "configuration", *(one.name for one in PARAMETERS), "seconds", "top1"]
    wanted = [
        (setup, number, values)
        for number, values in enumerate(design(configurations))
        for setup in (SETUPS if number < FEWER_CONFIGURATIONS else ("full",))
    ]
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            file.write(
                f"# python -m benchmarks.search --record FILE --configurations {configurations}\n"
                f"# {processor()}, 1 thread, torch {torch.__version__}\n"
            )
            writer.writeheader()
        for count, (setup, number, values) in enumerate(wanted, start=1):
            if (setup, number) in done:
                continue
            seconds, top1 = curve_of(study, SETUPS[setup], values)
            line = {"setup": setup, "configuration": number, **values, "seconds": f"{seconds:.2f}"}
            writer.writerow({**line, "top1": " ".join(f"{one:.4f}" for one in top1)})
            file.flush()
            said = f"{setup}, configuration {number}: {top1[-1]:.1%} in {seconds:.0f} s"
            print(f"{count} of {len(wanted)}: {said}", flush=True)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The recorded curves of a setup.

    Attributes:
        points: Its C configurations in the unit cube, (C, parameters).
        top1: The objective by epoch, (C, epochs).
        seconds: Processor seconds of a training, the mean.
    """

    points: Array
    top1: Array
    seconds: float


def read(path: Path) -> list[dict[str, str]]:
    """Reads the lines that `record` wrote."""
    with path.open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def read_curves(path: Path) -> dict[str, Curves]:
    """Reads what `record` wrote, by setup, each in the order of its configurations."""
    found: dict[str, list[dict[str, str]]] = {}
    for line in sorted(read(path), key=lambda line: int(line["configuration"])):
        found.setdefault(line["setup"], []).append(line)
    return {
        setup: Curves(
            points=np.array(
                [in_unit_cube({p.name: float(line[p.name]) for p in PARAMETERS}) for line in lines]
            ),
            top1=np.array([[float(one) for one in line["top1"].split()] for line in lines]),
            seconds=mean(float(line["seconds"]) for line in lines),
        )
        for setup, lines in found.items()
    }


def in_unit_cube(values: Mapping[str, float]) -> list[float]:
    """Returns a configuration's coordinates from 0 to 1."""
    coordinates = []
    for parameter in PARAMETERS:
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
            (configurations, epochs); the first of those in `full`, in their order.
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
        """Returns the expected curve, (epochs,)."""
        weights = self.weights(point)
        if without is not None:
            weights[without] = 0
        curve: Array = weights @ self.full.top1 / weights.sum()
        return curve

    def left_out_errors(self) -> Array:
        """Returns recorded less predicted, each from all others, (C, epochs)."""
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
        return np.clip(expected + noise, 0, 1), float(expected[-1])


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
                "parameters": PARAMETERS,
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
        for parameter in PARAMETERS:
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
    constant = top1[:, -1] - top1[:, -1].mean()
    correlation = kendalltau(top1[:, -1], top1[:, -1] - errors).statistic
    points = Sobol(len(PARAMETERS), rng=np.random.default_rng(0)).random(1024)
    best = max(float(surrogate.mean(point)[-1]) for point in points)
    console.print(
        f"{len(top1)} recorded configurations. Surrogate: learning rate × "
        f"{surrogate.rate_scale:g}, bandwidth {surrogate.bandwidth:g}. Left out, the last top-1 is "
        f"predicted with an RMS error of {100 * (errors**2).mean() ** 0.5:.1f} points (by the mean "
        f"of all: {100 * (constant**2).mean() ** 0.5:.1f}), Kendall's τ {correlation:.2f}; another "
        f"seed changes it by {100 * (surrogate.noise[:, -1] ** 2).mean() ** 0.5:.1f} (standard "
        f"deviation). Best that there is to find: {100 * best:.1f} %."
    )


def show_proxies(curves: Mapping[str, Curves], console: Console) -> None:
    """Prints how well cheaper trainings rank configurations as the full one does.

    Another seed's full trainings show what chance alone costs.
    """
    full = curves["full"]
    proxies = [
        (f"{epoch} of {EPOCHS} epochs", full.top1[:, epoch - 1], full.seconds * epoch / EPOCHS)
        for epoch in default_rungs(EPOCHS)[:-1]
    ] + [(name, one.top1[:, -1], one.seconds) for name, one in curves.items() if name != "full"]
    table = Table(
        *("trained on", "processor s", "cheaper", "configurations", "best", "Kendall's τ"),
        "points lost by its choice",
        title="Agreement with the full training (bootstrap over configurations, 95 %)",
    )
    for name, values, seconds in proxies:
        own = full.top1[: len(values), -1]
        rng = np.random.default_rng(0)
        picks = rng.integers(len(own), size=(2000, len(own)))
        taus = [kendalltau(values[pick], own[pick]).statistic for pick in picks]
        lost = [100 * (own[pick].max() - own[pick][values[pick].argmax()]) for pick in picks]
        low, high = np.nanpercentile(taus, (2.5, 97.5))
        table.add_row(
            name,
            f"{seconds:.1f}",
            f"{full.seconds / seconds:.1f}×",
            str(len(own)),
            f"{values.max():.1%}",
            f"{kendalltau(values, own).statistic:.2f} ({low:.2f} to {high:.2f})",
            f"{np.mean(lost):.1f} (0.0 to {np.percentile(lost, 95):.1f})",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--record", type=Path, metavar="FILE", help="train what this lacks, and add it")
    add("--configurations", type=int, default=40, metavar="N", help="to record (default: 40)")
    add("--data", type=Path, metavar="DIR", help="the embedded clip store (default: a new one)")
    add("--seeds", type=int, default=20, metavar="N", help="searches of each kind (default: 20)")
    add("--variants", action="store_true", help="compare ours with other settings of its own")
    arguments = parser.parse_args()
    console = Console(width=120)
    if arguments.record is not None:
        with tempfile.TemporaryDirectory() as folder:
            store = prepare_embedded(arguments.data or Path(folder) / "store")
            study = recorded_study(Path(store.path).resolve())
            record(arguments.record, arguments.configurations, study)
        show_proxies(read_curves(arguments.record), console)
        return
    curves = read_curves(CURVES)
    surrogate = fit_surrogate(curves)
    show_surrogate(surrogate, console)
    show_proxies(curves, console)
    methods = {"ours": METHODS["ours"], **VARIANTS} if arguments.variants else METHODS
    for places in PLACES:
        compare(methods, surrogate, places=places, seeds=arguments.seeds, console=console)


if __name__ == "__main__":
    main()
