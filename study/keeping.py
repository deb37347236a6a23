"""Which trained networks a study keeps when it is done."""

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from study.claims import release
from study.job import checkpoint_place
from study.networks import Network, kept_networks, write_network
from study.plan import Plan, PlannedRow, Target, Training, meta_network, with_stages
from study.provenance import canonical_json
from study.request import Study
from study.results.store import ResultStore
from study.searches import most_trainings
from study.training.checkpoint import (
    DamagedCheckpointError,
    delete_checkpoint,
    load_checkpoint,
    trained_state,
)
from study.training.hyperparameters import Hyperparameters

__all__ = ["keep_networks", "most_kept"]

Source = Callable[[Training], str]
Stages = Callable[[Training], Collection[str]]


def keep_networks(
    study: Study,
    rows: Sequence[PlannedRow],
    *,
    source: Source,
    stages: Stages,
    trials: Sequence[Training],
    needed: Collection[str],
) -> list[str]:
    """Keeps the networks of finished rows that a study asks for, and deletes their checkpoints.

    What they started from is kept with them, for other studies to start from.

    A kept network takes a checkpoint's place: it is half its size, and what is to be scored later
    is scored from it. What is kept already stays, whatever is asked for: it may be another study's.

    Args:
        study: The study.
        rows: Its rows whose scores are all stored.
        source: Returns the id of the training whose scores stand for a training's own.
        stages: Returns the ids of those whose networks a training comes from.
        trials: Trainings of searches; what they started from isn't kept.
        needed: Those whose checkpoints stay, as something unfinished starts from them.

    Returns:
        The trainings whose networks were to be kept, but are gone.
    """
    results = ResultStore(study.request.results)
    kept, lost = kept_networks(results), []
    for identity in sorted(_wanted(study, rows, source, stages, results) - kept.keys()):
        network = _from_checkpoint(study, results, identity)
        if network is None:
            lost.append(identity)
        else:
            write_network(results, network)
    trainings = [one for row in rows for one in row.distinct_trainings]
    ended = {*map(source, trainings)}.union(*map(stages, [*trainings, *trials]))
    for identity in ended - set(needed):
        if release(results, identity, study.name):
            delete_checkpoint(checkpoint_place(study.checkpoints, identity))
    return lost


def _wanted(
    study: Study,
    rows: Sequence[PlannedRow],
    source: Source,
    stages: Stages,
    results: ResultStore,
) -> set[str]:
    """Returns the ids of the trainings whose networks are to be kept."""
    if study.request.keep == "none":
        return set()
    if study.request.keep == "all":
        trainings = [one for row in rows for one in row.distinct_trainings]
        return {*map(source, trainings)}.union(*map(stages, trainings))
    accuracy = {
        (line["arm"], line["dataset"], line["split"], line["seed"]): line["top1"]
        for line in results.read(
            "rows", study=study.name, protocol=study.protocol, part="validation"
        ).to_pylist()
    }

    def rank(row: PlannedRow) -> tuple[float, int]:
        seed, target = row.training.seed, row.training.target
        return accuracy.get((row.arm.name, target.dataset, target.split, seed), 0.0), -seed

    by_arm: dict[tuple[str, str, str], list[PlannedRow]] = {}
    for row in rows:
        target = row.training.target
        by_arm.setdefault((row.arm.name, target.dataset, target.split), []).append(row)
    best = [max(of_arm, key=rank) for of_arm in by_arm.values()]
    trainings = [one for row in best for one in row.trainings.values()]
    return {*map(source, trainings)}.union(*map(stages, trainings))


def _from_checkpoint(study: Study, results: ResultStore, identity: str) -> Network | None:
    """Returns a finished training's network as its checkpoint has it; None where that is lost."""
    try:
        state = load_checkpoint(checkpoint_place(study.checkpoints, identity))
    except (FileNotFoundError, DamagedCheckpointError):
        return None
    (line,) = results.read("trainings", keys=[identity]).to_pylist()
    if len(state["history"]) < line["epochs"]:  # another study trains it up to a rung
        return None
    store = study.store
    if study.pretraining is not None and line["store_fingerprint"] != store.fingerprint:
        store = study.pretraining.store
    annotations = store.annotations
    return Network(
        training_id=identity,
        model=line["model"],
        options=json.loads(line["options"]),
        hyperparameters=Hyperparameters.of(json.loads(line["hyperparameters"])),
        classes=annotations.classes,
        flip_classes=annotations.flip_classes,
        store=store.settings,
        state=trained_state(state),
    )


def most_kept(study: Study, plan: Plan) -> tuple[int, int]:
    """Returns how many networks a study keeps at most, and their bytes.

    Args:
        study: The study.
        plan: Its plan without what searches find.
    """
    keep = study.request.keep
    if keep == "none":
        return 0, 0
    nets: dict[tuple[str, Target], dict[str, Training]] = {}
    arms: dict[tuple[str, Target], set[str]] = {}
    for row in plan.rows:
        read = row.distinct_trainings if keep == "all" else row.trainings.values()
        for one in with_stages(read).values():
            net = [one.model, one.options, one.hyperparameters.of_training(), one.train_on]
            key = canonical_json(net), replace(one.target, carve=0)
            nets.setdefault(key, {})[one.training_id] = one
            arms.setdefault(key, set()).add(row.arm.name)
    # Arms that choose for themselves may have networks of their own.
    more = most_trainings(study) / len(plan.trainings)
    networks = size = 0
    for key, trainings in nets.items():
        count = len(trainings) if keep == "all" else min(len(trainings), len(arms[key]))
        count = math.ceil(count * more)
        networks += count
        size += count * _bytes(study, next(iter(trainings.values())))
    return networks, size


def _bytes(study: Study, training: Training) -> int:
    """Returns the bytes of a training's network in a file."""
    classes = study.store_of(training).annotations.classes
    net = meta_network(training, num_classes=len(classes))
    return sum(value.numel() * value.element_size() for value in net.state_dict().values())
