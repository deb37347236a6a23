"""What was asked of a study, checked whole before anything starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models import model_options
from models.fusion import FUSIONS
from search_spaces.space import TUNINGS, Arm, Settings, Space
from study.cluster.resources import Resources
from study.data.store.clip_store import ClipStore
from study.job import Job, Parts, build_model, split_parts
from study.plan import (
    Plan,
    Target,
    Training,
    fewest_frames,
    imagenet_network,
    make_plan,
    make_training,
    settings_of,
)
from study.provenance import canonical_json, code_version, git_state
from study.results.store import ResultStore
from study.training.weights import Weights, find_weights

__all__ = ["TUNINGS", "Request", "Study", "check_request", "known_studies"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for.

    Attributes:
        space: The system.
        store: The clip store's path or URI.
        results: The results folder or address.
        name: The study's name.
        trials: Trials of each search.
        tuning: ``shared`` (one search a split, for all arms), ``own`` (one an arm, each of the
            same budget) or ``fixed`` (no search).
        arms: Names of the wanted arms; None for the space's default arms.
        splits: Names of splits; None for the first.
        seeds: How many seeds, 0, 1, ….
        train_on: ``train`` holds the validation part out, ``all`` trains on it too.
        weights: ``imagenet``, ``none`` or a path.
        changes: Settings by dotted name, put over the space's own.
        resources: What each training takes.
        at_once: How many trainings run at once; None for as many as the cluster holds.
        compile: Whether to use ``torch.compile``.
        loader_workers: Loader processes of each training process.
    """

    space: Space
    store: str | Path
    results: str
    name: str
    trials: int
    tuning: str
    arms: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    seeds: int = 1
    train_on: str = "train"
    weights: str = "none"
    changes: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    at_once: int | None = None
    compile: bool = False
    loader_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Study:
    """A request that was checked, with all that conducting it needs."""

    request: Request
    arms: tuple[Arm, ...]
    store: ClipStore
    targets: tuple[Target, ...]
    parts: Mapping[str, Parts]
    base: Settings
    provenance: tuple[str, bool]

    @property
    def folder(self) -> Path:
        """Where the study's own state lies: searches, checkpoints, Ray's scratch files."""
        results = self.request.results
        return Path(results) if "://" not in results else Path(".study") / self.request.name

    def settings(self, arm: Arm, found: Mapping[str, Any] | None) -> Settings:
        """An arm's settings at the found values."""
        return settings_of(arm, self.base, space=self.request.space, found=found)

    def make_training(self, model: str, settings: Settings, **more: Any) -> Training:
        """A training of this study: its weights and code version filled in."""
        return make_training(
            model,
            settings,
            train_on=self.request.train_on,
            weights=lambda network: self._weights(network).name,
            code_version=code_version(model_options(model).__module__),
            **more,
        )

    def trial(self, arm: Arm, target: Target, values: Mapping[str, Any]) -> Training:
        """The search's training of an arm at proposed values, with the first seed.

        It is the very training that the ablation plans for this arm at these values.
        """
        plan = make_plan(
            (arm,),
            targets=(target,),
            seeds=(0,),
            settings=lambda arm, target: self.settings(arm, values),
            training=self.make_training,
        )
        return next(iter(plan.trainings.values()))

    def plan(self, found: Callable[[Arm, Target], Mapping[str, Any]]) -> Plan:
        """The plan of the study's arms at the values found for each arm and target."""
        return make_plan(
            self.arms,
            targets=self.targets,
            seeds=range(self.request.seeds),
            settings=lambda arm, target: self.settings(arm, found(arm, target)),
            training=self.make_training,
        )

    def job(self, training: Training, **more: Any) -> Job:
        """A job of this study."""
        weights = self._weights(imagenet_network(training.model, training.options))
        return Job(
            training=training,
            store=str(self.store.path),
            results=self.request.results,
            checkpoints=str(self.folder / "checkpoints"),
            study=self.request.name,
            space=self.request.space.name,
            weights_file=None if weights.file is None else str(weights.file),
            provenance=self.provenance,
            compile=self.request.compile,
            loader_workers=self.request.loader_workers,
            **more,
        )

    def _weights(self, network: str) -> Weights:
        return find_weights(self.request.weights, network, folder=self.folder / "weights")

    def random_starts(self, plan: Plan) -> list[str]:
        """The nets that start from random weights though ImageNet's are asked for."""
        if self.request.weights != "imagenet":
            return []
        started = (
            imagenet_network(training.model, training.options) or training.model
            for training in plan.trainings.values()
            if training.weights == "none"
        )
        return sorted(set(started))


def check_request(request: Request) -> Study:
    """Checks a request whole, before anything starts.

    Raises:
        ValueError: If an arm, split, setting or combination isn't possible; the message names
            what is.
        FileNotFoundError: If the clip store or a weights file is missing.
    """
    store = ClipStore.open(request.store)
    request = replace(request, space=request.space.on(store.annotations.dataset))
    space = request.space
    arms = (
        tuple(arm for arm in space.arms if arm.default)
        if request.arms is None
        else tuple(space.arm(name) for name in request.arms)
    )
    if request.train_on == "all":
        _check_nothing_fits(arms)
        if request.tuning != "fixed":
            raise ValueError(
                "--train-on all leaves no validation part to search on; give --tuning fixed too"
            )
    splits = request.splits or (next(iter(store.annotations.splits)),)
    parts = {}
    for split in splits:
        if split not in store.annotations.splits:
            raise ValueError(
                f"{store.annotations.dataset} has no split {split!r}; it has "
                f"{', '.join(store.annotations.splits)}"
            )
        parts[split] = split_parts(store, split, train_on=request.train_on)
    study = Study(
        request=request,
        arms=arms,
        store=store,
        targets=tuple(
            Target(
                dataset=store.annotations.dataset,
                store_fingerprint=store.fingerprint,
                split=split,
            )
            for split in splits
        ),
        parts=parts,
        base=_base_settings(request, store),
        provenance=git_state(),
    )
    _check_changes(request.changes, arms)
    # Checks every arm's options and finds its weights.
    plan = study.plan(lambda arm, target: {})
    _check_stacks(store, plan)
    _check_segments(plan)
    _check_weights(study, plan)
    return study


def _check_weights(study: Study, plan: Plan) -> None:
    """Loads a given weights file into each net once: a file that doesn't fit is told of now."""
    if study.request.weights in ("imagenet", "none"):
        return
    seen = set()
    for training in plan.trainings.values():
        net = canonical_json([training.model, training.options])
        if net not in seen:
            seen.add(net)
            build_model(study.job(training), num_classes=len(study.store.annotations.classes))


def _check_changes(changes: Mapping[str, Any], arms: Sequence[Arm]) -> None:
    """A changed option must reach some arm: one whose model has it and that doesn't fix it."""
    for name in changes:
        option = name.removeprefix("options.")
        if option == name or any(
            option in arm.known_options and option not in arm.options for arm in arms
        ):
            continue
        known = sorted(frozenset().union(*(a.known_options - a.options.keys() for a in arms)))
        raise ValueError(
            f"--set {name} changes none of the arms: their models don't have it, or the arms fix "
            f"it themselves; options that can be set are {', '.join(known)}"
        )


def _check_segments(plan: Plan) -> None:
    for training in plan.trainings.values():
        least, hyperparameters = fewest_frames(training), training.hyperparameters
        for name in ("segments", "test_segments"):
            if getattr(hyperparameters, name) < least:
                raise ValueError(
                    f"{name} is {getattr(hyperparameters, name)}, but model {training.model!r} "
                    f"takes clips of at least {least}"
                )


def _check_stacks(store: ClipStore, plan: Plan) -> None:
    if store.settings.stacks is None:
        return
    for training in plan.trainings.values():
        if training.hyperparameters.flow_length > store.settings.flow_length:
            raise ValueError(
                f"flow_length is {training.hyperparameters.flow_length}, but the clip store "
                f"{store.path} has stacks of {store.settings.flow_length} flow fields; set a "
                "smaller flow_length, or prepare a store with longer stacks"
            )


def _check_nothing_fits(arms: Sequence[Arm]) -> None:
    fitting = [arm.name for arm in arms if FUSIONS[arm.fusion].fits_on_validation]
    if fitting:
        raise ValueError(
            f"--train-on all leaves no validation part, but {', '.join(fitting)} fit their fusion "
            "on it; leave --train-on out, or name other --arms"
        )


def _base_settings(request: Request, store: ClipStore) -> Settings:
    """The space's settings, fitted to what the store holds, then what the user changed."""
    base = request.space.settings
    fitted: dict[str, Any] = {"crop_size": _crop_size(store.settings.short_side)}
    wanted = base.hyperparameters.get("flow_length", 10)
    if store.settings.stacks is not None:
        fitted["flow_length"] = min(wanted, store.settings.flow_length)
        if "test_segments" not in base.hyperparameters:
            fitted["test_segments"] = min(25, store.settings.stacks)
    return base.updated(Settings(hyperparameters=fitted)).updated(Settings.of(request.changes))


def _crop_size(short_side: int) -> int:
    """7/8 of the short side, as 224 is of 256 (ours for other sizes)."""
    return max(1, short_side * 7 // 8)


def known_studies(results: str) -> list[str]:
    """The names of the studies that have a result in a results folder."""
    store = ResultStore(results)
    lines = [store.read(view, columns=["study"])["study"] for view in ("trials", "trainings")]
    return sorted({name for column in lines for name in column.to_pylist()})
