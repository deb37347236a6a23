"""``python -m study.run --space stilt``: search, then the ablation at the found settings."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import search_spaces
from study.cluster.resources import Resources
from study.conduct import describe, run_study, searched_arms
from study.data.datasets.catalog import list_datasets
from study.data.store.embedded import prepare_embedded
from study.data.store.remote import is_uri
from study.plan import Plan
from study.request import TUNINGS, Request, Study, check_request, known_studies
from study.results.store import DamagedResultError, ResultStore
from study.results.tables import render
from study.terminal import Terminal

__all__ = ["main"]

DONE, FAILED, REFUSED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a study.

    Returns:
        0 when it is done, 1 when something failed, 2 when the input was refused.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments, Console(highlight=False))
    except KeyboardInterrupt:
        print(
            "\nstudy.run: interrupted. What finished is kept; the same command goes on from there.",
            file=sys.stderr,
        )
        return FAILED
    except DamagedResultError as error:
        print(f"study.run: {error}", file=sys.stderr)
        return FAILED


def _run(arguments: argparse.Namespace, console: Console) -> int:
    try:
        study = _study(arguments, console)
    except (ValueError, OSError) as error:
        print(f"study.run: {error}", file=sys.stderr)
        return REFUSED
    _print_plan(study, console)
    if arguments.dry_run:
        _print_arms(study, console)
        return DONE
    try:
        failed = run_study(study, address=arguments.address, terminal=Terminal(console))
    except (RuntimeError, OSError, ValueError) as error:
        print(f"study.run: {error}", file=sys.stderr)
        return FAILED
    for reason in failed:
        print(f"study.run: a training failed: {reason}", file=sys.stderr)
    _print_tables(study, console)
    return FAILED if failed else DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.run",
        description="Search a system's hyperparameters, then run its ablation at what was found.",
    )
    add = parser.add_argument
    add("--space", required=True, help=f"the system: {', '.join(search_spaces.names())}")
    add("--arms", nargs="+", metavar="ARM", help="rows of the ablation (default: the space's)")
    add("--dataset", default="embedded", help=f"{', '.join(list_datasets())}")
    add(
        "--data", metavar="DIR", help="the clip store that study.prepare made, or its s3:// address"
    )
    add("--split", nargs="+", metavar="NAME", help="splits (default: the first)")
    add("--seeds", type=int, default=1, metavar="N", help="seeds 0..N-1 (default: 1)")
    add("--trials", type=int, default=6, metavar="N", help="trials of each search (default: 6)")
    add("--epochs", type=int, metavar="N", help="epochs of each training")
    add(
        "--tuning",
        choices=TUNINGS,
        help="one search for all arms, an own one "
        "for each (same budget), or none (default: the space's, mostly shared)",
    )
    add(
        "--train-on",
        choices=("train", "all"),
        default="train",
        help="hold the validation part out, or train on it too (default: train)",
    )
    add("--weights", help="imagenet, none or a file (default: imagenet; none on embedded)")
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="settings, such as options.backbone=resnet18 batch_size=16 loss_weights.spatial=0.5",
    )
    add("--workers", type=int, default=1, metavar="N", help="processes of each training")
    add("--cpus-per-worker", type=float, default=1, metavar="N", help="CPU cores of each")
    add("--gpus-per-worker", type=float, default=0, metavar="N", help="GPUs of each (default: 0)")
    add(
        "--at-once",
        type=int,
        metavar="N",
        help="trainings that run at once (default: as many as the cluster holds when the study "
        "starts; say so where it grows)",
    )
    add("--loader-workers", type=int, default=0, metavar="N", help="loader processes of each")
    add("--compile", action="store_true", help="compile the model with torch.compile")
    add("--address", help="a Ray cluster's address, such as auto (default: this machine alone)")
    add("--results", default="results", metavar="DIR", help="the results folder or s3:// address")
    add("--name", help="the study's name (default: <space>-<dataset>)")
    add("--resume", action="store_true", help="go on with a study of this name; it must exist")
    add("--dry-run", action="store_true", help="print the plan and stop")
    return parser


def _study(arguments: argparse.Namespace, console: Console) -> Study:
    """Checks the arguments against each other and against what exists."""
    space = search_spaces.get(arguments.space)
    if arguments.dataset not in list_datasets():
        raise ValueError(
            f"there is no dataset {arguments.dataset!r}; there are {', '.join(list_datasets())}"
        )
    for flag in ("seeds", "trials", "epochs", "workers", "at_once", "loader_workers"):
        value = getattr(arguments, flag)
        least = 0 if flag in ("trials", "loader_workers") else 1
        if value is not None and value < least:
            raise ValueError(f"--{flag.replace('_', '-')} must be at least {least}, got {value}")
    embedded = arguments.dataset == "embedded"
    name = arguments.name or f"{space.name}-{arguments.dataset}"
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"--name takes letters, digits and . _ + - only, but got {name!r}")
    if arguments.resume and name not in (known := known_studies(arguments.results)):
        raise ValueError(
            f"--resume: there is no study {name!r} in {arguments.results}; there "
            f"{'is ' + ', '.join(known) if known else 'are none'}"
        )
    changes = dict(_assignment(text) for text in arguments.changes)
    if arguments.epochs is not None:
        changes["epochs"] = arguments.epochs
    resources = Resources(
        workers=arguments.workers,
        cpus_per_worker=arguments.cpus_per_worker,
        gpus_per_worker=arguments.gpus_per_worker,
    )
    return check_request(
        Request(
            space=space,
            arms=None if arguments.arms is None else tuple(arguments.arms),
            store=_store(arguments, console),
            splits=None if arguments.split is None else tuple(arguments.split),
            seeds=arguments.seeds,
            trials=arguments.trials,
            tuning=arguments.tuning or space.tuning,
            train_on=arguments.train_on,
            weights=arguments.weights or ("none" if embedded else "imagenet"),
            changes=changes,
            resources=resources,
            results=arguments.results
            if "://" in arguments.results
            else str(Path(arguments.results).resolve()),
            name=name,
            at_once=arguments.at_once,
            compile=arguments.compile,
            loader_workers=arguments.loader_workers,
        )
    )


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set takes NAME=VALUE, such as batch_size=16, but got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _store(arguments: argparse.Namespace, console: Console) -> str | Path:
    """The clip store: the given one, or the embedded dataset's, made where it isn't yet."""
    if arguments.data is not None:
        if is_uri(arguments.data):
            return str(arguments.data)
        return Path(arguments.data).resolve()  # trainings run in folders of their own
    if arguments.dataset != "embedded":
        raise ValueError(
            f"--dataset {arguments.dataset} needs --data DIR, the clip store that "
            f"`python -m study.prepare {arguments.dataset} --store DIR …` makes"
        )
    local = arguments.results if "://" not in arguments.results else "results"
    path = Path(local).resolve() / "data" / "embedded"
    with Terminal(console).preparing("the embedded dataset") as progress:
        prepare_embedded(path, progress=progress)
    return path


def _print_plan(study: Study, console: Console) -> None:
    """What will run: data, searches, trainings and what each takes."""
    request = study.request
    plan = study.plan(lambda arm, target: {})
    say = Terminal(console)
    say.heading(f"{request.space.title}")
    for target in study.targets:
        parts = study.parts[target.split]
        say.say(
            f"{target.dataset} split {target.split}: {len(parts.train)} train, "
            f"{len(parts.validation)} validation, {len(parts.test)} test videos of "
            f"{len(study.store.annotations.classes)} classes"
        )
        if parts.missing:
            say.warn(
                f"{parts.missing} videos of split {target.split} are MISSING from {request.store}"
            )
    if scratch := study.random_starts(plan):
        say.warn(
            f"torchvision has no ImageNet weights of {', '.join(scratch)}: they start from RANDOM "
            "weights; give --weights PATH"
        )
    searches = len(study.targets) * len(searched_arms(study))
    say.say(
        f"{searches} search{'es' if searches != 1 else ''} of {request.trials} trials"
        f"{' (shared by all arms)' if request.tuning == 'shared' and searches else ''}, then "
        f"{len(study.arms)} arms × {request.seeds} seed{'s' if request.seeds > 1 else ''} from "
        f"{len(plan.trainings)} trainings of {_epochs(plan)} epochs"
    )
    need = ", ".join(f"{amount:g} {name}" for name, amount in request.resources.total.items())
    say.say(
        f"each training: {request.resources.workers} worker"
        f"{'s' if request.resources.workers > 1 else ''}, {need}; results in {request.results}, "
        f"study {request.name!r}"
    )


def _epochs(plan: Plan) -> int:
    return max(one.hyperparameters.epochs for one in plan.trainings.values())


def _print_arms(study: Study, console: Console) -> None:
    """Every arm with the training that serves it."""
    plan = study.plan(lambda arm, target: {})
    numbers = {identity: number for number, identity in enumerate(plan.trainings, start=1)}
    table = Table("arm", "fusion", "split", "seed", "training", box=box.SIMPLE)
    for row in plan.rows:
        training = row.training
        number = numbers[training.training_id]
        table.add_row(
            row.arm.name,
            row.arm.fusion,
            training.target.split,
            str(training.seed),
            f"{number}: {describe(training, plan.trainings.values())}",
        )
    console.print(table)


def _print_tables(study: Study, console: Console) -> None:
    results = ResultStore(study.request.results)
    if not results.read("rows", columns=["arm"], study=study.request.name).num_rows:
        return  # every training failed
    arms = {arm.name for arm in study.arms}
    tables = [table.name for table in study.request.space.tables if table.arms & arms]
    for name in tables:
        console.print()
        print(render(name, results, "text", study=study.request.name))
    console.print(
        f"\nAgain: python -m study.query --results {study.request.results} --table {tables[0]}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
