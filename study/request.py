"""A whole study: check, search, train, fuse, and write the rows.

``prepare_study`` checks everything that was asked for before anything starts, and ``conduct``
does it. What is finished is never done again, so conducting a killed study anew runs what is left.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from models import model_options
from models.fusion import FUSIONS
from search_spaces.space import TUNINGS, Arm, Parameter, Settings, Space
from study.cluster.connection import at_once_on, check_shared, running_ray
from study.cluster.queue import (
    Found,
    Placement,
    Search,
    SearchFailedError,
    run_trainings,
    search,
)
from study.cluster.resources import Resources
from study.data.store.clip_store import ClipStore
from study.job import Job, Parts, build_model, split_parts
from study.plan import (
    Plan,
    PlannedRow,
    Target,
    Training,
    fewest_frames,
    image_network,
    make_plan,
    make_training,
    modality,
    settings_of,
)
from study.provenance import canonical_json, code_version, git_state
from study.results.predictions import prediction_lines
from study.results.rows import accuracies, fuse, load_scores
from study.results.store import ResultStore
from study.scores import Scores
from study.terminal import Terminal
from study.training.weights import Weights, find_weights

__all__ = ["TUNINGS", "Request", "Study", "conduct", "prepare_study"]


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

    def epochs(self) -> int:
        """Epochs of each training."""
        return self.trial(self.arms[0], self.targets[0], {}).hyperparameters.epochs

    def settings(self, arm: Arm, found: Mapping[str, Any] | None) -> Settings:
        """An arm's settings at the found values."""
        return settings_of(arm, self.base, space=self.request.space, found=found)

    def make_training(self, model: str, settings: Settings, **more: Any) -> Training:
        """A training of this study: its weights and code version filled in."""
        plain = make_training(model, settings, **more)
        return make_training(
            model,
            settings,
            train_on=self.request.train_on,
            weights=self._weights(plain).name,
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
        weights = self._weights(training)
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

    def _weights(self, training: Training) -> Weights:
        return find_weights(
            self.request.weights, image_network(training), folder=self.folder / "weights"
        )

    def random_starts(self, plan: Plan) -> list[str]:
        """The nets that start from random weights though ImageNet's are asked for."""
        if self.request.weights != "imagenet":
            return []
        trainings = plan.trainings.values()
        return sorted({image_network(t) or t.model for t in trainings if t.weights == "none"})

    def searched_arms(self) -> tuple[Arm, ...]:
        """The arms that get a search of their own."""
        if self.request.tuning == "fixed" or self.request.trials == 0:
            return ()
        if self.request.tuning == "own":
            return self.arms
        return (self.request.space.arm(self.request.space.search_arm),)

    def searches(self) -> Iterator[tuple[Arm, Target, Search]]:
        """Each search of the study; a split's search sees that split's train part only."""
        for target in self.targets:
            for arm in self.searched_arms():
                yield arm, target, self._search(arm, target)

    def _search(self, arm: Arm, target: Target) -> Search:
        request = self.request
        start = self.trial(arm, target, {})
        parameters = request.space.parameters_for(arm)
        asked = canonical_json(
            [start.training_id, arm.name, arm.fusion, [repr(one) for one in parameters]]
        )
        digest = hashlib.sha256(asked.encode()).hexdigest()[:8]
        return Search(
            name=f"{request.name}/{target.dataset}-{target.split}/{arm.name}/{digest}",
            study=request.name,
            arm=arm.name,
            dataset=target.dataset,
            split=target.split,
            propose=partial(_propose, parameters=parameters),
            make_job=partial(_trial_job, study=self, arm=arm, target=target),
            first=_first_values(parameters, start),
            trials=request.trials,
            epochs=start.hyperparameters.epochs,
            seed=0,
            storage=self.folder / "optuna.db",
        )


def prepare_study(request: Request) -> Study:
    """Checks a request whole, before anything starts.

    Raises:
        ValueError: If an arm, split, setting or combination isn't possible; the message names
            what is.
        FileNotFoundError: If the clip store or a weights file is missing.
    """
    store = ClipStore.open(request.store)
    if store.annotations.dataset == "embedded":
        request = replace(request, space=request.space.on_embedded())
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


def _propose(trial: optuna.Trial, *, parameters: Sequence[Parameter]) -> dict[str, Any]:
    return {parameter.name: parameter.suggest(trial) for parameter in parameters}


def _first_values(parameters: Sequence[Parameter], start: Training) -> dict[str, Any]:
    """What the untuned training uses, where the parameters allow it: no search does worse."""
    known = {
        **{f"options.{name}": value for name, value in start.options.items()},
        **{
            field.name: getattr(start.hyperparameters, field.name)
            for field in fields(start.hyperparameters)
        },
        "fusion_lambda": 1.0,
    }
    first = {}
    for parameter in parameters:
        if parameter.name.startswith("loss_weights."):
            name = parameter.name.removeprefix("loss_weights.")
            known[parameter.name] = start.hyperparameters.loss_weights.get(name, 1.0)
        if parameter.name in known and parameter.allows(known[parameter.name]):
            first[parameter.name] = parameter.spell(known[parameter.name])
    return first


def _trial_job(values: Mapping[str, Any], *, study: Study, arm: Arm, target: Target) -> Job:
    """The job of a trial: it reports the arm's validation accuracy and scores no part."""
    return study.job(
        study.trial(arm, target, values), objective=(arm.fusion, values.get("fusion_lambda"))
    )


def known_studies(results: str) -> list[str]:
    """The names of the studies that have a result in a results folder."""
    store = ResultStore(results)
    lines = [store.read(view, columns=["study"])["study"] for view in ("trials", "trainings")]
    return sorted({name for column in lines for name in column.to_pylist()})


def conduct(study: Study, *, address: str | None, terminal: Terminal) -> list[str]:
    """Runs what is missing of a study and writes its rows.

    Args:
        address: A Ray cluster's address; None starts a local Ray.
        terminal: Is told what happens.

    Returns:
        The trainings that failed, each with its reason; the rows that need them are missing.
    """
    request = study.request
    with running_ray(address, nested=request.resources.workers > 1) as cluster:
        if address is not None:
            check_shared(study.folder.resolve())
        at_once = at_once_on(
            cluster, request.resources, asked=request.at_once, may_grow=address is not None
        )
        scratch = (study.folder / "ray" / request.name).resolve()
        placement = Placement(resources=request.resources, at_once=at_once, scratch=str(scratch))
        found, lost = _run_searches(study, placement, terminal)
        study = replace(study, arms=tuple(arm for arm in study.arms if arm.name not in lost))
        plan = study.plan(partial(_values, study=study, found=found))
        terminal.heading(f"Ablation: {len(plan.rows)} rows from {len(plan.trainings)} trainings")
        jobs = [
            (
                describe(training, plan.trainings.values()),
                study.job(training, parts=parts_of(training, plan)),
            )
            for training in plan.trainings.values()
        ]
        with terminal.trainings(study.epochs()) as watcher:
            failed = run_trainings(jobs, placement=placement, watcher=watcher)
    shutil.rmtree(scratch, ignore_errors=True)  # what Ray wrote of its own is never read again
    write_rows(study, plan)
    return [*lost.values(), *failed]


def _run_searches(
    study: Study, placement: Placement, terminal: Terminal
) -> tuple[dict[tuple[str, Target], Found], dict[str, str]]:
    """What each search found, and the arms without a complete trial, each with what is to say.

    Raises:
        SearchFailedError: If no arm is left.
    """
    found: dict[tuple[str, Target], Found] = {}
    lost: dict[str, str] = {}
    for arm, target, asked in study.searches():
        terminal.heading(f"Search: {arm.label}, {target.dataset} split {target.split}")
        try:
            with terminal.trainings(asked.epochs) as watcher:
                best = search(
                    asked, placement=placement, watcher=watcher, results=study.request.results
                )
        except SearchFailedError as error:
            lost[arm.name] = f"{arm.name}: {error}"
            if study.request.tuning == "shared" or len(lost) == len(study.arms):
                raise
            continue
        terminal.say(
            f"best of {best.trials}: trial {best.trial + 1}, "
            f"validation {100 * best.validation_top1:.1f} %"
        )
        found[arm.name, target] = best
    return found, lost


def _values(
    arm: Arm, target: Target, *, study: Study, found: Mapping[tuple[str, Target], Found]
) -> Mapping[str, Any]:
    searched = arm.name if study.request.tuning == "own" else study.request.space.search_arm
    best = found.get((searched, target))
    return {} if best is None else best.values


def parts_of(training: Training, plan: Plan) -> tuple[str, ...]:
    """The parts that a planned training is scored on."""
    parts = ("validation", "test") if training.train_on == "train" else ("test",)
    return ("train", *parts) if training.training_id in plan.features_of else parts


def describe(training: Training, among: Iterable[Training] = ()) -> str:
    """A training in a few words for the terminal: what tells it apart from those beside it."""
    others = [other for other in among if other.model == training.model]
    usual = asdict(model_options(training.model)())
    told = []
    for name, value in training.options.items():
        varies = any(other.options[name] != value for other in others)
        if (varies and value != usual[name]) or name in ("interaction", "backbone"):
            told.append(_told(name, value))
    segments = training.hyperparameters.segments
    if any(other.hyperparameters.segments != segments for other in others):
        told.append(f"{segments} segments")
    what = f"{training.model} ({', '.join(told)})" if told else training.model
    return f"{what} split {training.target.split} seed {training.seed}"


def _told(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {'+'.join(map(str, value)) or 'none' if isinstance(value, tuple) else value}"


def write_rows(study: Study, plan: Plan) -> None:
    """Fuses each finished training's scores as its arms say and writes the arms' rows."""
    results = ResultStore(study.request.results)
    for identity, training in plan.trainings.items():
        scores = load_scores(results, identity)
        if "test" not in scores:
            continue  # it failed
        listed = study.store.annotations.splits[training.target.split]
        groups = {video.name: video.group for video in (*listed.train, *listed.test)}
        for row in plan.rows:
            if row.training.training_id == identity:
                _write_row(study, results, row, scores, groups)
    results.compact()


def _write_row(
    study: Study,
    results: ResultStore,
    row: PlannedRow,
    scores: Mapping[str, Scores],
    groups: Mapping[str, str],
) -> None:
    request, training, arm = study.request, row.training, row.arm
    fused = fuse(arm.fusion, scores, groups=groups, fusion_lambda=row.fusion_lambda)
    identity = {
        "study": request.name,
        "space": request.space.name,
        "arm": arm.name,
        "dataset": training.target.dataset,
        "split": training.target.split,
        "seed": training.seed,
    }
    key = canonical_json(identity)
    results.write(
        "predictions",
        key,
        [
            line
            for part, matrix in fused.parts.items()
            for line in prediction_lines(
                {**identity, "part": part, "training_id": training.training_id},
                videos=scores[part].videos,
                labels=scores[part].labels,
                scores=matrix,
                groups=groups,
            )
        ],
    )
    results.write(
        "rows",
        key,
        [
            {
                **identity,
                "part": part,
                "training_id": training.training_id,
                "fusion": arm.fusion,
                "fusion_lambda": fused.fusion_lambda,
                "views": views_of(training),
                **accuracies(matrix, scores[part].labels),
                "videos": len(scores[part].videos),
                "tuning": request.tuning if request.trials else "fixed",
                "modality": modality(training, arm.fusion),
                "classes": len(set(scores[part].labels.tolist())),
                "missing_videos": study.parts[training.target.split].missing,
                "details": fused.details,
            }
            for part, matrix in fused.parts.items()
        ],
    )


def views_of(training: Training) -> str:
    """The test views of a training: frames × crops."""
    hyperparameters = training.hyperparameters
    return f"{hyperparameters.test_segments} frames × {hyperparameters.test_crops} crop"
