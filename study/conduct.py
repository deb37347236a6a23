"""Does a study: searches, trains what the plan asks for, and writes the rows.

What is finished is never done again, so a killed study that is started again does what is left.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import optuna

from models import model_options
from search_spaces.space import Arm, Parameter
from study.cluster.connection import at_once_on, check_shared, running_ray
from study.cluster.queue import (
    Found,
    Placement,
    Search,
    SearchFailedError,
    run_trainings,
    search,
)
from study.job import Job
from study.plan import Plan, PlannedRow, Target, Training, modality
from study.provenance import canonical_json
from study.request import Study
from study.results.predictions import prediction_lines
from study.results.rows import accuracies, fuse, load_scores
from study.results.store import ResultStore
from study.scores import Scores
from study.terminal import Terminal

__all__ = ["run_study", "searched_arms", "write_rows"]


def searched_arms(study: Study) -> tuple[Arm, ...]:
    """The arms that get a search of their own."""
    if study.request.tuning == "fixed" or study.request.trials == 0:
        return ()
    if study.request.tuning == "own":
        return study.arms
    return (study.request.space.arm(study.request.space.search_arm),)


def searches(study: Study) -> Iterator[tuple[Arm, Target, Search]]:
    """Each search of the study; a split's search sees that split's train part only."""
    for target in study.targets:
        for arm in searched_arms(study):
            yield arm, target, _search(study, arm, target)


def _search(study: Study, arm: Arm, target: Target) -> Search:
    request = study.request
    start = study.trial(arm, target, {})
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
        make_job=partial(_trial_job, study=study, arm=arm, target=target),
        first=_first_values(parameters, start),
        trials=request.trials,
        epochs=start.hyperparameters.epochs,
        seed=0,
        storage=study.folder / "optuna.db",
    )


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


def run_study(study: Study, *, address: str | None, terminal: Terminal) -> list[str]:
    """Runs what is missing of a study and writes its rows.

    Args:
        study: The study.
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
        epochs = max(training.hyperparameters.epochs for training in plan.trainings.values())
        with terminal.trainings(epochs) as watcher:
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
    for arm, target, asked in searches(study):
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
