"""``python -m study.run --space stilt``: search, then the ablation at the found settings."""

import argparse
import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from rich.console import Console

import search_spaces
from models.checks import check_number
from models.plugins import PluginError, names_plugin
from search_spaces.recipes import RECIPES
from search_spaces.space import TUNINGS, Choice, Parameter, Real, Space
from study.advice import warnings_of
from study.cluster.resources import Resources
from study.command import DONE, FAILED, REFUSED, Parser, stopped
from study.conduct import ray_for, run_study
from study.configuration import Section, flags_over, flat, read_flags, render_request, value_of
from study.data.datasets.catalog import list_datasets
from study.data.store.clip_store import ClipStore
from study.data.store.embedded import is_prepared, prepare_embedded
from study.data.store.remote import is_uri
from study.driver_lock import StudyRunsError
from study.dry_run import print_dry_run
from study.keeping import most_kept
from study.likeness import like
from study.listing import LISTS, print_list
from study.plan import Plan
from study.request import KEEP, Request, Study, check_request, check_settings
from study.results.store import DamagedResultError, ResultStore
from study.results.tables import render
from study.search import Sampler
from study.searches import most_trainings, searches_of
from study.sizes import told_bytes
from study.terminal import Terminal
from study.tracking import TRACKERS, open_trackers
from study.training.weights import EVERYWHERE

__all__ = ["main"]

_Value = TypeVar("_Value")

SHARED = {  # who trains with what a search finds
    "net": "one a net, whose arms share its best",
    "own": "one a net, among whose trials each arm chooses its own",
    "shared": "shared by all arms",
}
EXAMPLES = """\
values of --set are as JSON has them, and text otherwise. Lists and tuples are
one, in quotes for the shell's sake: --set 'scales=[1,0.875]' 'milestones=[]'
'options.head_dims=[512,1024]' clip_norm=null. --list options names all of them.

examples:
  python -m study.run --space stilt --data stores/ucf101 --split 1 2 3 \\
      --gpus-per-worker 1
      the whole study on UCF101's three splits, on this machine's GPUs
  python -m study.run --space cstm --data stores/mine --trials 20 --seeds 5 \\
      --set batch_size=16 'scales=[1,0.875]' --search options.dropout=0.2..0.8 \\
      --log tensorboard
      own clips: 20 trials of each search, five seeds, curves in TensorBoard
  python -m study.run --config results/studies/stilt-ucf101/study.toml \\
      --name longer --like stilt-ucf101/stil --epochs 200
      that study again, but longer, at the settings found for one of its arms
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a study.

    Returns:
        0 when it is done, 1 when something failed, 2 when the input was refused.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        parser = _parser()
        arguments = _arguments(parser, argv)
        return _run(arguments, parser.sections, Console(highlight=False))
    except KeyboardInterrupt:
        print(
            "\nstudy.run: interrupted. What finished is kept; the same command goes on from there.",
            file=sys.stderr,
        )
        return FAILED
    except PluginError as error:  # of an installed package, which the help would list
        print(f"study.run: {error}", file=sys.stderr)
        return REFUSED
    except DamagedResultError as error:
        print(f"study.run: {error}", file=sys.stderr)
        return FAILED


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(arguments: argparse.Namespace, sections: Sequence[Section], console: Console) -> int:
    try:
        if arguments.list is not None:
            print_list(_space_listed(arguments), arguments.list, arguments.recipe, console)
            return DONE
        request = _request(arguments)
    except (ValueError, OSError) as error:
        return stopped("study.run", str(error), REFUSED)
    with contextlib.ExitStack() as stack:
        if _ray_comes_up_first(arguments, request):
            try:
                stack.enter_context(ray_for(request, None))
            except ConnectionError as error:
                return stopped("study.run", str(error), FAILED)
        return _run_request(request, arguments, sections, console)


def _ray_comes_up_first(arguments: argparse.Namespace, request: Request) -> bool:
    """Whether clips have to be prepared, while which Ray's processes can start."""
    local = arguments.address is None and not arguments.dry_run
    return local and arguments.data is None and not is_prepared(Path(request.store))


def _run_request(
    request: Request,
    arguments: argparse.Namespace,
    sections: Sequence[Section],
    console: Console,
) -> int:
    try:
        if arguments.data is None:
            with Terminal(console).preparing("the embedded dataset") as progress:
                prepare_embedded(Path(request.store), progress=progress)
        study = check_request(request)
        if arguments.like is not None:
            study = check_request(like(study, arguments.like))
        searches = searches_of(study)  # refuses what can't be searched, or begun with
        trackers = open_trackers(arguments.log, study)
    except (ValueError, OSError) as error:
        return stopped("study.run", str(error), REFUSED)
    _print_plan(study, len(searches), console)
    if arguments.dry_run:
        print_dry_run(study, console, address=arguments.address)
        return DONE
    try:
        failed = run_study(
            study,
            searches,
            address=arguments.address,
            terminal=Terminal(console),
            request_file=render_request(sections, arguments, study),
            trackers=trackers,
        )
    except StudyRunsError as error:
        return stopped("study.run", str(error), REFUSED)
    except (RuntimeError, OSError, ValueError) as error:
        return stopped("study.run", str(error), FAILED)
    for reason in failed:
        print(f"study.run: failed: {reason}", file=sys.stderr)
    _print_tables(study, console, space=arguments.space)
    return FAILED if failed else DONE


class _Parser(Parser):
    """Knows which flags a study's file has."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.sections: list[Section] = []
        self.where = ""

    def error(self, message: str) -> NoReturn:
        super().error(f"{self.where}{message}")

    def section(self, name: str, title: str) -> Callable[..., None]:
        """Returns what adds a flag to a new group of ``--help`` and section of the file."""
        group, section = self.add_argument_group(title), Section(name=name, title=title)
        self.sections.append(section)

        def add(*names: str, **more: Any) -> None:
            section.flags.append(group.add_argument(*names, **more))

        return add

    def given(self, words: Sequence[str] | None) -> dict[str, Any]:
        """Returns the flags that a command line gives, without any defaults."""
        unset = dict.fromkeys(vars(self.parse_args([])))
        found = vars(self.parse_args(words, argparse.Namespace(**unset)))
        return {name: value for name, value in found.items() if value is not None}


def _arguments(parser: _Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What a command line and the file that it may name ask for, and the defaults."""
    given = parser.given(argv)
    if "config" in given:
        try:
            words = read_flags(given["config"], parser.sections)
        except ValueError as error:
            parser.exit(REFUSED, f"study.run: {error}\n")
        parser.where = f"--config {given['config']}: "
        given = flags_over(parser.given(words), given)
        parser.where = ""
    if "space" not in given:
        parser.error("--space SPACE is needed, or --config FILE with one")
    return argparse.Namespace(**{**vars(parser.parse_args([])), **given})


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m study.run",
        description="Search a system's hyperparameters, then run its ablation at what was found.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.section("comparison", "what is compared")
    add(
        "--space",
        help=f"the system: {', '.join(search_spaces.names())}; or one of your own, as FILE.py or "
        "MODULE:NAME",
    )
    add(
        "--arms",
        nargs="+",
        action="extend",
        metavar="ARM",
        help="rows of the ablation (default: the space's)",
    )
    add(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="reported seeds 1..N; trials have another (default: 3)",
    )
    add(
        "--vary",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="WHAT",
        help="split-carve, search or both, joined by a comma: what is held out for validation, and "
        "the searches, differ between the reported seeds too (default: neither)",
    )
    add = parser.section("data", "on what data")
    add(
        "--data", metavar="DIR", help="the clip store that study.prepare made, or its s3:// address"
    )
    add(
        "--dataset",
        help=f"the dataset that the store must be of: {', '.join(list_datasets())} (default: "
        "the store's; embedded without --data)",
    )
    add("--split", nargs="+", action="extend", metavar="NAME", help="splits (default: the first)")
    add(
        "--train-on",
        choices=("train", "all"),
        default="train",
        help="hold the validation part out, or train on it too (default: train)",
    )
    add(
        "--refit",
        action="store_true",
        help="search, and fit fusions, with the validation part held out; report networks that are "
        "trained again on all of train at the found settings",
    )
    _add_tuning(parser.section("tuning", "how it is tuned"))
    _add_training(parser.section("training", "how it trains"))
    _add_places(parser.section("places", "where it trains"))
    add = parser.section("results", "where results go")
    add("--results", default="results", metavar="DIR", help="the results folder or s3:// address")
    add("--name", help="the study's name (default: <space>-<dataset>)")
    add(
        "--keep",
        choices=KEEP,
        default="all",
        help="the trained networks that stay in the results, for study.predict and study.export: "
        "all that rows are made of, those of each arm's and split's best seed on validation, or "
        "none (default: all)",
    )
    add(
        "--log",
        nargs="+",
        action="extend",
        choices=TRACKERS,
        default=[],
        metavar="WHERE",
        help=f"also log epochs and test accuracies to {', '.join(TRACKERS)}, each through its own "
        "client (an extra of this package)",
    )
    again = parser.add_argument_group("as before, or only to look").add_argument
    again(
        "--config",
        metavar="FILE",
        help="take flags from a file, such as the studies/NAME/study.toml that every study writes "
        "into its results; those given here win",
    )
    again(
        "--like",
        metavar="STUDY/ARM",
        help="take the settings that an arm of an older study in the results was trained with, its "
        "found hyperparameters among them; --set goes over them",
    )
    again("--resume", action="store_true", help="go on with a study of this name; it must exist")
    again(
        "--dry-run",
        action="store_true",
        help="print the plan and about how long it takes, and stop",
    )
    again(
        "--list",
        choices=LISTS,
        metavar="WHAT",
        help="print the space's arms, the options that --set takes, or the parameters that are "
        "searched, with what is allowed, and stop: arms, options or parameters",
    )
    return parser


def _add_tuning(add: Callable[..., None]) -> None:
    add(
        "--tuning",
        choices=TUNINGS,
        default="net",
        help="net: a search of each net, whose best trial all its arms share (default); own: each "
        "arm chooses among the trials of its net's search; shared: one search for all arms; "
        "fixed: none",
    )
    add(
        "--trials",
        type=int,
        metavar="N",
        help="trials of each search (default: 4 for each searched parameter and at least 10; 3 on "
        "the embedded dataset)",
    )
    add(
        "--sampler", choices=get_args(Sampler), default="tpe", help="proposes trials (default: tpe)"
    )
    add(
        "--lag",
        type=int,
        default=8,
        metavar="N",
        help="a trial's proposal doesn't know the N latest, so that N run at once (default: 8)",
    )
    add(
        "--search-seed",
        type=int,
        default=0,
        metavar="N",
        help="seeds what is proposed and the trials' trainings (default: 0)",
    )
    add(
        "--search",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=RANGE",
        help="parameters to search in addition or otherwise, such as learning_rate=1e-4..1e-1:log "
        "options.dropout=0..0.9 options.attention_dim=64,128",
    )
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings that are then not searched, such as options.backbone=resnet18 batch_size=16 "
        "loss_weights.spatial=0.5 'scales=[1,0.875]'",
    )
    add("--warm-start", metavar="NAME", help="begin with what an older study's trials came to")


def _add_training(add: Callable[..., None]) -> None:
    add(
        "--recipe",
        choices=tuple(RECIPES),
        default="paper",
        help="settings to start from, over which --set goes: the space's own, as its paper has "
        "them; with its schedule in iterations; or for small data batches of 16, a rate of 0.02 "
        "that falls as a cosine after an epoch's warm-up, gradients clipped at 5 and no dropout "
        "(default: paper)",
    )
    add("--epochs", type=int, metavar="N", help="epochs of each training")
    add(
        "--weights",
        nargs="+",
        action="extend",
        metavar="[NAME=]WEIGHTS",
        help="imagenet, kinetics, none or a file; for a stream or an arm of its own "
        "spatial=FILE, temporal=FILE or ARM=FILE (default: imagenet; none on embedded)",
    )
    add(
        "--pretrain-data",
        metavar="DIR",
        help="a clip store to train all networks on first, whole; those of the study's own data "
        "start from them, with a new last layer",
    )
    add(
        "--pretrain-set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the trainings there, such as epochs=100; --set goes for both",
    )
    add("--compile", action="store_true", help="compile the model with torch.compile")


def _add_places(add: Callable[..., None]) -> None:
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
    add(
        "--gpu-memory",
        type=float,
        metavar="GB",
        help="memory of each GPU, for which batches are divided (default: 24)",
    )
    add(
        "--loader-workers",
        type=int,
        metavar="N",
        help="loader processes of each (default: with GPUs by the node's cores, else none)",
    )
    add("--address", help="a Ray cluster's address, such as auto (default: this machine alone)")
    add("--max-hours", type=float, metavar="H", help="stop after H hours; the same goes on later")


def _request(arguments: argparse.Namespace) -> Request:
    """What the flags ask for, checked as far as it can be before its clips are prepared."""
    changes = _assignments("--set", arguments.set)
    if arguments.epochs is not None:
        changes = _unique("--set and --epochs", [*changes.items(), ("epochs", arguments.epochs)])
    searched = _unique("--search", ((one.name, one) for one in map(_parameter, arguments.search)))
    request = Request(
        space=search_spaces.load(arguments.space),
        arms=None if arguments.arms is None else tuple(arguments.arms),
        store=_store_place(arguments),
        dataset=arguments.dataset,
        splits=None if arguments.split is None else tuple(arguments.split),
        seeds=arguments.seeds,
        vary=arguments.vary,
        trials=arguments.trials,
        tuning=arguments.tuning,
        sampler=arguments.sampler,
        lag=arguments.lag,
        search_seed=arguments.search_seed,
        parameters=tuple(searched.values()),
        warm_start=arguments.warm_start,
        train_on=arguments.train_on,
        refit=arguments.refit,
        weights=_weights(arguments.weights),
        pretrain_store=None if arguments.pretrain_data is None else _place(arguments.pretrain_data),
        pretrain_changes=_assignments("--pretrain-set", arguments.pretrain_set),
        recipe=arguments.recipe,
        changes=changes,
        resources=Resources(
            workers=arguments.workers,
            cpus_per_worker=arguments.cpus_per_worker,
            gpus_per_worker=arguments.gpus_per_worker,
        ),
        results=arguments.results
        if "://" in arguments.results
        else str(Path(arguments.results).resolve()),
        name=arguments.name,
        at_once=arguments.at_once,
        compile=arguments.compile,
        loader_workers=arguments.loader_workers,
        gpu_memory=arguments.gpu_memory,
        max_hours=arguments.max_hours,
        keep=arguments.keep,
        must_exist=arguments.resume,
    )
    if arguments.data is None:
        check_settings(request, "embedded")
    return request


def _unique(flag: str, named: Iterable[tuple[str, _Value]]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for name, value in named:
        if name in found:
            raise ValueError(f"{flag} names {name} twice")
        found[name] = value
    return found


def _weights(given: Sequence[str] | None) -> dict[str, str] | None:
    """What networks start from by stream and arm; a word alone stands for the others."""
    if given is None:
        return None
    matches = (re.fullmatch(r"(?:([\w.+-]+)=)?(.+)", text, re.DOTALL) for text in given)
    named = [(one[1] or EVERYWHERE, one[2]) for one in matches if one]
    if len(alike := [word for name, word in named if name == EVERYWHERE]) > 1:
        raise ValueError(
            f"--weights says twice where all streams and arms start: {' and '.join(alike)}; give "
            "one word, and NAME=WORD for a stream or an arm of its own"
        )
    return _unique("--weights", named)


def _assignments(flag: str, given: Iterable[str]) -> dict[str, Any]:
    return _unique(flag, (pair for text in given for pair in flat(_assignment(flag, text))))


def _assignment(flag: str, text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{flag} takes NAME=VALUE, such as batch_size=16, but got {text!r}")
    return {name: value_of(value)}


def _parameter(text: str) -> Parameter:
    """A searched parameter: ``NAME=LOW..HIGH``, with ``:log`` behind it, or ``NAME=A,B,C``."""
    name, _, rest = text.partition("=")
    span, _, scale = rest.partition(":")
    low, dots, high = span.partition("..")
    try:
        if name and dots and scale in ("", "log"):
            return Real(name=name, low=float(low), high=float(high), log=scale == "log")
        if name and rest and not dots and not scale:
            choices = tuple(map(value_of, rest.split(",")))
            check_number("numbers", tuple(one for one in choices if isinstance(one, float)))
            return Choice(name=name, choices=choices)
    except ValueError as error:
        raise ValueError(f"--search {text}: {error}") from None
    raise ValueError(
        "--search takes NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C, such as "
        f"learning_rate=1e-4..1e-1:log, but got {text!r}"
    )


def _space_listed(arguments: argparse.Namespace) -> Space:
    """The space as it is on the dataset that the study would be of."""
    dataset = arguments.dataset or "embedded"
    if arguments.data is not None:
        dataset = ClipStore.open(_store_place(arguments)).annotations.dataset
    return search_spaces.load(arguments.space).on(dataset)


def _place(store: str) -> str | Path:
    """Where a clip store is, whatever the folder that a training runs in."""
    return store if is_uri(store) else Path(store).resolve()


def _store_place(arguments: argparse.Namespace) -> str | Path:
    """Where the clip store is: as given, or the embedded dataset's in the results."""
    if arguments.data is not None:
        return _place(arguments.data)
    dataset = arguments.dataset or "embedded"
    if dataset not in list_datasets():
        raise ValueError(f"there is no dataset {dataset!r}; there are {', '.join(list_datasets())}")
    if dataset != "embedded":
        raise ValueError(
            f"--dataset {dataset} needs --data DIR, the clip store that "
            f"`python -m study.prepare {dataset} --store DIR …` makes"
        )
    local = arguments.results if "://" not in arguments.results else "results"
    return Path(local).resolve() / "data" / "embedded"


def _print_plan(study: Study, searches: int, console: Console) -> None:
    """What will run: data, searches, trainings and what each takes."""
    request = study.request
    plan = study.plan()
    say = Terminal(console)
    say.heading(f"{study.space.title}")
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
    for text in warnings_of(study, plan):
        say.warn(text)
    for line in study.starts:
        say.say(f"starts: {line}")
    if scratch := study.random_starts(plan):
        say.warn(
            f"torchvision has no ImageNet weights of {', '.join(scratch)}: they start from RANDOM "
            "weights; give --weights PATH"
        )
    if searches:
        plural = "es" if searches > 1 else ""
        say.say(f"{searches} search{plural} of {study.trials} trials, {SHARED[study.tuning]}")
    least, most = len(plan.trainings), most_trainings(study)
    first = least - len({one.training_id for row in plan.rows for one in row.distinct_trainings})
    say.say(
        f"{'then' if searches else 'no search:'} {len(study.arms)} arms × "
        f"{request.seeds} seed{'s' * (request.seeds > 1)} from "
        f"{least}{f' to {most}' if most > least else ''} trainings of {_epochs(plan)} epochs"
        f"{f', {first} of which are for others to start from' if first else ''}"
        f"{', at seeds that no trial has' if searches else ''}"
    )
    for ensemble in study.ensembles:
        say.say(f"{ensemble.name} is the mean of {', '.join(ensemble.members)}: no training more")
    if request.refit:
        say.say(
            "what is tested trains on all train and validation videos; arms that fit their fusion "
            "have another training, with the validation videos held out"
        )
    searched = {one.name for one in request.space.on(study.targets[0].dataset).parameters}
    if pinned := sorted(request.changes.keys() & searched):
        say.say(f"set, so not searched: {', '.join(pinned)}")
    need = ", ".join(f"{amount:g} {name}" for name, amount in request.resources.total.items())
    say.say(
        f"each training: {request.resources.workers} worker"
        f"{'s' if request.resources.workers > 1 else ''}, {need}; results in {request.results}, "
        f"study {study.name!r}"
    )
    networks, size = most_kept(study, plan)
    say.say(
        f"networks kept (--keep {request.keep}): "
        + (f"{networks} at most, {told_bytes(size)}" if networks else "none")
    )


def _epochs(plan: Plan) -> int:
    return max(one.hyperparameters.epochs for one in plan.trainings.values())


def _print_tables(study: Study, console: Console, *, space: str) -> None:
    results = ResultStore(study.request.results)
    ours = results.read("rows", columns=["arm"], study=study.name, protocol=study.protocol)
    if not ours.num_rows:
        return  # every training failed
    tables = search_spaces.tables_showing(study.space.name, study.row_names)
    for name in tables:
        console.print()
        print(render(name, results, "text", study=study.name, protocol=study.protocol))
    again = f"python -m study.query --results {study.request.results} --table {tables[0]}"
    if names_plugin(space):
        again += f" --space {shlex.quote(space)}"
    console.print(f"\nAgain: {again}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
