"""Experiment tracking: epochs and test accuracies to TensorBoard, MLflow or Weights & Biases.

The study's driver logs what it knows anyway: an epoch when it is reported, an arm's row when it is
written. Each training is a run. Nothing here can end a study: what fails is said once and logs no
more, and what is slow holds up nobody.
"""

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from study.plan import PlannedRow, Training, effective_options
from study.request import Study

__all__ = ["TRACKERS", "Run", "Tracker", "Tracking", "open_trackers", "tracking"]

LOGIN_SECONDS = 30
ROW_METRICS = ("top1", "mean_class_accuracy")
EPOCH_METRICS = {
    "validation_top1": "validation/top1",
    "train_loss": "train/loss",
    "lr": "train/lr",
    "clips_per_second": "train/clips_per_second",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training, as trackers know it.

    Attributes:
        training_id: The training's id.
        label: What it is, in a few words.
        study: The study's name.
        settings: Model, options, hyperparameters, dataset, split and seed by dotted name.
    """

    training_id: str
    label: str
    study: str
    settings: Mapping[str, bool | int | float | str]


class Tracker(Protocol):
    """A service. Its methods are called from one thread; what they raise becomes a warning."""

    name: str

    def begin(self, run: Run) -> None:
        """Opens a run, or opens again one of the same training."""

    def log(self, run: Run, values: Mapping[str, float], step: int) -> None:
        """Logs values by name at an epoch of an open run."""

    def end(self, run: Run) -> None:
        """Closes an open run."""


class TensorBoard:
    """Writes event files, a folder a run.

    Args:
        folder: Of all studies of the results.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def begin(self, run: Run) -> None:
        """Opens a run's event file, with its settings for the page of hyperparameters."""
        client = importlib.import_module("torch.utils.tensorboard")
        name = f"{_file_name(run.label)}-{run.training_id[:8]}"
        writer = client.SummaryWriter(str(self._folder / run.study / name))
        metrics = dict.fromkeys([EPOCH_METRICS["validation_top1"]], 0.0)
        for summary in client.summary.hparams(dict(run.settings), metrics):
            writer.file_writer.add_summary(summary)
        self._writers[run.training_id] = writer

    def log(self, run: Run, values: Mapping[str, float], step: int) -> None:
        """Writes scalars, to be seen at once."""
        writer = self._writers[run.training_id]
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def end(self, run: Run) -> None:
        """Closes the event file."""
        self._writers.pop(run.training_id).close()


class MLflow:
    """Logs to an MLflow tracking server or database, an experiment a study.

    Args:
        folder: Where the database lies unless the environment's ``MLFLOW_TRACKING_URI`` names a
            server or another.
    """

    name = "mlflow"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[str, str] = {}

    @cached_property
    def _client(self) -> Any:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            self._folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{self._folder.resolve() / 'mlflow.db'}"
        return importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)

    def begin(self, run: Run) -> None:
        """Opens a run with the settings as its parameters; one of an earlier session goes on."""
        experiment = self._client.get_experiment_by_name(run.study)
        number = (
            self._client.create_experiment(run.study)
            if experiment is None
            else experiment.experiment_id
        )
        earlier = self._client.search_runs([number], f"tags.training_id = '{run.training_id}'")
        if earlier:
            self._runs[run.training_id] = earlier[0].info.run_id
            return
        tags = {"training_id": run.training_id}
        made = self._client.create_run(number, tags=tags, run_name=run.label).info.run_id
        self._runs[run.training_id] = made
        for name, value in run.settings.items():
            self._client.log_param(made, name, value)

    def log(self, run: Run, values: Mapping[str, float], step: int) -> None:
        """Logs metrics."""
        for name, value in values.items():
            self._client.log_metric(self._runs[run.training_id], name, value, step=step)

    def end(self, run: Run) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._runs.pop(run.training_id))


class WeightsAndBiases:
    """Logs to Weights & Biases, a project a study; ``WANDB_MODE=offline`` writes to the folder.

    Args:
        folder: Of wandb's own files.
    """

    name = "wandb"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[str, Any] = {}

    @cached_property
    def _client(self) -> Any:
        client = importlib.import_module("wandb")
        if "WANDB_MODE" not in os.environ:
            client.login(timeout=LOGIN_SECONDS)  # or it waits for a key to be typed
        return client

    def begin(self, run: Run) -> None:
        """Opens a run with the settings as its configuration; one of an earlier session goes on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._runs[run.training_id] = self._client.init(
            project=run.study,
            id=run.training_id,
            name=run.label,
            config=dict(run.settings),
            dir=str(self._folder),
            resume="allow",
            reinit="create_new",
        )

    def log(self, run: Run, values: Mapping[str, float], step: int) -> None:
        """Logs metrics."""
        self._runs[run.training_id].log(dict(values), step=step)

    def end(self, run: Run) -> None:
        """Ends the run."""
        self._runs.pop(run.training_id).finish()


_Open = Callable[[Path], Tracker]
_KINDS: Mapping[str, _Open] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}
TRACKERS = tuple(_KINDS)
"""What ``--log`` takes; also the names of the clients' modules and of this package's extras."""


def open_trackers(names: Sequence[str], study: Study) -> list[Tracker]:
    """Returns the trackers of those names, each with a folder in the results.

    Nothing is opened or written before the first epoch. Where the results are at an address, the
    folder is in the study's own on this machine.

    Raises:
        ValueError: If a client isn't installed.
    """
    wanted = tuple(dict.fromkeys(names))
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"--log {missing[0]} needs its client, which is not installed here; "
            f"pip install 'two-stream-study[{','.join(missing)}]'"
        )
    return [_KINDS[name](study.folder / name) for name in wanted]


class Tracking:
    """Hands what a study's driver learns to trackers.

    Args:
        trackers: The trackers.
        warn: Shows a warning.
    """

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self._channels = [_Channel(tracker, warn) for tracker in trackers]
        self._runs: dict[str, Run] = {}
        self._epochs: dict[str, int] = {}
        self._open: set[str] = set()

    def epoch(self, training: Training, study: str, label: str, metrics: Mapping[str, Any]) -> None:
        """Logs an epoch that a training finished, once."""
        identity = training.training_id
        if not self._channels or metrics["epoch"] <= self._epochs.get(identity, 0):
            return
        if identity not in self._runs:
            self._runs[identity] = Run(
                training_id=identity, label=label, study=study, settings=_settings(training)
            )
        self._epochs[identity] = metrics["epoch"]
        values = {
            name: metrics[key]
            for key, name in EPOCH_METRICS.items()
            if metrics.get(key) is not None
        }
        values |= {f"train/loss/{name}": loss for name, loss in metrics.get("losses", {}).items()}
        self._log(identity, values)

    def row(self, row: PlannedRow, lines: Sequence[Mapping[str, Any]]) -> None:
        """Logs an arm's accuracies to the run of its training, if this session has trained it."""
        identity = row.training.training_id
        if identity in self._runs:
            self._log(
                identity,
                {
                    f"{line['part']}/{metric}/{row.arm.name}": line[metric]
                    for line in lines
                    for metric in ROW_METRICS
                },
            )

    def _log(self, identity: str, values: Mapping[str, float]) -> None:
        run = self._runs[identity]
        if identity not in self._open:
            self._open.add(identity)
            self._hand("begin", run)
        self._hand("log", run, values, self._epochs[identity])

    def ended(self, training: Training) -> None:
        """Closes a training's run, if it is open; a later epoch opens it again."""
        if training.training_id in self._open:
            self._open.remove(training.training_id)
            self._hand("end", self._runs[training.training_id])

    def _hand(self, method: str, *arguments: Any) -> None:
        for channel in self._channels:
            channel.hand(method, *arguments)

    def close(self) -> None:
        """Closes all runs, and waits until all is logged."""
        for identity in sorted(self._open):
            self._hand("end", self._runs[identity])
        for channel in self._channels:
            channel.close()


@contextmanager
def tracking(trackers: Sequence[Tracker], warn: Callable[[str], None]) -> Iterator[Tracking]:
    """Yields what hands a study's progress to trackers; closes their runs at the end."""
    tracked = Tracking(trackers, warn)
    try:
        yield tracked
    finally:
        tracked.close()


class _Channel:
    """Calls a tracker in order from a thread of its own, until one of its calls fails."""

    def __init__(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._warn = warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=tracker.name)
        self._failed = False

    def hand(self, method: str, *arguments: Any) -> None:
        self._thread.submit(self._call, method, *arguments)

    def _call(self, method: str, *arguments: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self._tracker, method)(*arguments)
        except Exception as error:
            self._failed = True
            self._warn(
                f"--log {self._tracker.name} failed and logs nothing more in this run; the study "
                f"goes on: {type(error).__name__}: {error}"
            )

    def close(self) -> None:
        self._thread.shutdown(wait=True)


def _settings(training: Training) -> dict[str, bool | int | float | str]:
    """What a training is run with, by dotted name, in what every tracker takes."""
    target = training.target
    every = {
        "model": training.model,
        "dataset": target.dataset,
        "split": target.split,
        "seed": training.seed,
        "train_on": training.train_on,
        **training.hyperparameters.of_training(),
        **{
            f"options.{name}": value
            for name, value in effective_options(training.model, training.options).items()
        },
    }
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in every.items()
    }


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", label).strip("-")
