"""What was asked of a study, all of it checked before anything starts."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import search_spaces
from models import VideoModel, model_module
from models.checks import check_count, check_number
from models.fusion import FUSIONS
from search_spaces.recipes import RECIPES, in_iterations
from search_spaces.space import (
    STREAMS,
    TUNINGS,
    WHOLE,
    Arm,
    Ensemble,
    Parameter,
    Settings,
    Space,
    Stage,
)
from study.cluster.resources import Resources
from study.data.datasets.parts import Parts, split_parts
from study.data.store.clip_store import ClipStore
from study.data.store.remote import is_uri, joined_uri
from study.fit import Gpu, choose_clips, divide_batch, fit_training, result_depends_on_passes
from study.job import Job, build_model
from study.plan import (
    Plan,
    Target,
    Training,
    fewest_frames,
    make_plan,
    make_training,
    meta_network,
    model_modules,
    settings_of,
)
from study.provenance import canonical_json, fingerprint, git_state
from study.results.members import find_member, tested_videos
from study.results.protocols import newest_protocols
from study.results.store import ResultStore
from study.search import Sampler
from study.source import FUSION, PACKAGES, SEARCH, TRAINING, source_version
from study.stages import start_reports
from study.training.hyperparameters import Hyperparameters
from study.training.initialisation import StartReport
from study.training.memory import MicroBatch
from study.training.weights import (
    EVERYWHERE,
    KINDS,
    divided_name,
    find_file,
    find_weights,
    has_imagenet_weights,
    joined_name,
    wanted_network,
    wanted_of,
    wanted_weights,
)

__all__ = [
    "KEEP",
    "TUNINGS",
    "Pretraining",
    "Request",
    "Study",
    "check_request",
    "check_settings",
    "fitting_arms",
    "known_studies",
]

NAME = re.compile(r"[^\W_][\w.+-]{0,99}")
"""A study's name: it is part of paths, and must lead nowhere else."""

MOST_SEEDS = 10_000
FIRST_STAGES = 10**12  # the seed of what trial 0 of search seed 0 starts from
VARY = ("split-carve", "search")
KEEP = ("all", "best", "none")

GPU_GIGABYTES = 24.0  # an L4's, an RTX 3090's and an RTX 4090's


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; what is None, ``check_request`` fills in.

    Attributes:
        space: The system.
        store: The clip store's path or URI.
        results: The results folder or address.
        name: The study's name; None for the space's and the dataset's.
        dataset: The dataset that the store must be of, or None for any.
        trials: Trials of each search; None for a number by the searched parameters.
        tuning: ``net`` (a search of each net, all of the same budget, whose best trial all its
            arms share), ``own`` (the same searches, among whose trials each arm chooses for
            itself), ``shared`` (one search of one net, for all arms) or ``fixed`` (no search).
        sampler: What proposes trials, see ``study.search.Search``.
        lag: How many of the latest trials a proposal doesn't know, see ``study.search.Search``.
        search_seed: Seeds the proposals and, with a seed that no reported row has, the trials.
        parameters: Parameters to search in addition to the space's, or in their place.
        warm_start: The name of a study in the results whose trials the searches begin with.
        arms: Names of the wanted arms and ensembles; None for the space's default arms, with the
            ensembles of these.
        splits: Names of splits; None for the first.
        seeds: How many reported seeds, 1, 2, …; no trial of a search has one of them.
        vary: What differs between the reported seeds in addition to the trainings' own seed:
            ``split-carve``, the videos that are held out for validation, and ``search``, the
            searches, of which each seed then has its own.
        train_on: ``train`` holds the validation part out, ``all`` trains on it too.
        refit: Whether the reported networks are trained on all of train at the found settings,
            with the fusions that networks fitted which held the validation part out.
        weights: ``imagenet``, ``kinetics``, ``none`` or a path; or those by stream, by arm and, for
            what isn't named, ``*``; None for ``imagenet`` on a real dataset.
        pretrain_store: The path or URI of the clip store that all networks are first trained on,
            or None.
        pretrain_changes: Settings by dotted name of the trainings there, put over `changes`.
        recipe: Which of ``search_spaces.recipes.RECIPES`` is put over the space's own settings.
        changes: Settings by dotted name, put over the recipe's; they are not searched.
        resources: What each training takes.
        at_once: How many trainings run at once; None for as many as the cluster holds.
        compile: Whether to use ``torch.compile``.
        loader_workers: Loader processes of each training process; None chooses by the node.
        gpu_memory: Memory of each GPU in gigabytes (10⁹ bytes) that trainings are divided for,
            whatever the GPU that is found; None for 24 with GPUs.
        max_hours: Wall time in hours after which no job is started or gone on with; None for none.
        keep: Which trained networks stay in the results, one of `KEEP`: all that rows are made of,
            those of each arm's and split's best seed, or none; with them stays what they started
            from.
        must_exist: Whether the results must hold something of the study already.
    """

    space: Space
    store: str | Path
    results: str
    name: str | None = None
    dataset: str | None = None
    trials: int | None = None
    tuning: str = "net"
    sampler: Sampler = "tpe"
    lag: int = 8
    search_seed: int = 0
    parameters: tuple[Parameter, ...] = ()
    warm_start: str | None = None
    arms: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    seeds: int = 3
    vary: tuple[str, ...] = ()
    train_on: str = "train"
    refit: bool = False
    weights: str | Mapping[str, str] | None = None
    pretrain_store: str | Path | None = None
    pretrain_changes: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "paper"
    changes: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    at_once: int | None = None
    compile: bool = False
    loader_workers: int | None = None
    gpu_memory: float | None = None
    max_hours: float | None = None
    keep: str = "all"
    must_exist: bool = False

    def __post_init__(self) -> None:
        for flag, value, least, most in (
            ("--seeds", self.seeds, 1, MOST_SEEDS),
            ("--trials", self.trials, 0, 100_000),
            ("--lag", self.lag, 1, 100_000),
            ("--search-seed", self.search_seed, 0, 1_000_000),
            ("--at-once", self.at_once, 1, 100_000),
            ("--loader-workers", self.loader_workers, 0, 1000),
        ):
            if value is not None:
                check_count(flag, value, least=least, most=most)
        if self.recipe not in RECIPES:
            raise ValueError(
                f"there is no --recipe {self.recipe!r}; there are {', '.join(RECIPES)}"
            )
        _check_results(self.results)
        if self.pretrain_changes and self.pretrain_store is None:
            raise ValueError("--pretrain-set needs --pretrain-data, the clip store to pretrain on")
        if self.max_hours is not None:
            check_number("--max-hours", self.max_hours, above=0)
        if self.gpu_memory is not None:
            check_number("--gpu-memory", self.gpu_memory, above=0)
            if not self.resources.gpus_per_worker:
                raise ValueError("--gpu-memory needs a GPU; give --gpus-per-worker 1 too")
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ValueError(
                "--name begins with a letter or digit and has at most 100 letters, digits and "
                f". _ + -, but got {self.name!r}"
            )
        if self.keep not in KEEP:
            raise ValueError(f"--keep takes {', '.join(KEEP)}, but got {self.keep!r}")
        if unknown := [one for one in self.vary if one not in VARY]:
            raise ValueError(f"--vary takes {' and '.join(VARY)}, but got {unknown[0]!r}")
        if self.refit and self.train_on == "all":
            raise ValueError(
                "--refit searches and fits with the validation part held out, then trains on all; "
                "give it or --train-on all, not both"
            )
        for flag, names in (("--arms", self.arms), ("--split", self.splits)):
            if names is not None and (twice := [n for n in names if names.count(n) > 1]):
                raise ValueError(f"{flag} names {twice[0]!r} twice")
        if both := {parameter.name for parameter in self.parameters} & self.changes.keys():
            raise ValueError(f"--set and --search both name {sorted(both)[0]}; give one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Reported seeds of a split that share the videos of each part and the searches.

    Attributes:
        target: What their trainings learn from and are judged on.
        seeds: The seeds.
        search_target: What their searches' trials learn from and are judged on.
        search_seed: The seed of their searches.
    """

    target: Target
    seeds: tuple[int, ...]
    search_target: Target
    search_seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """The data that networks are trained on before that of the study, and how.

    Attributes:
        store: Its clip store.
        target: Its dataset and first split.
        parts: The videos of each part.
        base: The settings that all arms share there.
    """

    store: ClipStore
    target: Target
    parts: Parts
    base: Settings


@dataclass(frozen=True, kw_only=True)
class Study:
    """A request that was checked, with all that doing it needs.

    Attributes:
        request: What was asked.
        name: The study's name.
        space: The space as it is on the dataset, its parameters those that are searched.
        tuning: ``net``, ``own``, ``shared`` or ``fixed``.
        trials: Trials of each search.
        weights: ``imagenet``, ``kinetics``, ``none`` or a path, by stream, by arm and for the
            others, as of ``study.training.weights.wanted_weights``.
        arms: The wanted arms, the ensembles' members among them.
        ensembles: The wanted ensembles.
        store: The clip store.
        targets: What is trained and judged on, one a split.
        parts: The videos of each split.
        base: The settings that all arms share, before what is found and what is their own.
        provenance: Git commit, and whether the code differed from it.
        pretraining: What networks are first trained on, or None.
        starts: What networks take of the given weights files and of other trainings, a line each.
    """

    request: Request
    name: str
    space: Space
    tuning: str
    trials: int
    weights: Mapping[str, str]
    arms: tuple[Arm, ...]
    ensembles: tuple[Ensemble, ...]
    store: ClipStore
    targets: tuple[Target, ...]
    parts: Mapping[str, Parts]
    base: Settings
    provenance: tuple[str, bool]
    pretraining: Pretraining | None = None
    starts: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the study's own process writes: the results, or a local folder beside a URI's."""
        results = self.request.results
        return Path(".study") / self.name if is_uri(results) else Path(results)

    @property
    def checkpoints(self) -> str:
        """The folder of all trainings' checkpoints in the results, or its URI."""
        results, name = self.request.results, "checkpoints"
        return joined_uri(results, name) if is_uri(results) else str(Path(results) / name)

    @cached_property
    def protocol(self) -> str:
        """What rows must share to be compared: 12 hexadecimal digits over `protocol_settings`."""
        return fingerprint(self.protocol_settings, digits=12)

    @cached_property
    def protocol_settings(self) -> dict[str, Any]:
        """All that can move a row's number, other than its arm, split, seed and machine."""
        weights = {
            name: one if one in KINDS else find_weights(one, "", folder=self._weights_folder).name
            for name, one in self.weights.items()
        }
        settings = asdict(self.base)
        del settings["starts_from"]  # which is an arm's own
        pretrained: dict[str, Any] = {}
        if (first := self.pretraining) is not None:
            pretrained = {"pretraining": {**asdict(first.target), "settings": asdict(first.base)}}
        return {
            "settings": settings,
            **pretrained,
            "dataset": self.store.annotations.dataset,
            "store": self.store.fingerprint,
            "weights": weights[EVERYWHERE] if len(weights) == 1 else weights,
            "train_on": self.request.train_on,
            "refit": self.request.refit,
            "vary": sorted(self.request.vary),
            "tuning": self._tuning_settings(),
            "code": {
                "shared": source_version(frozenset((*TRAINING, *FUSION, *SEARCH))),
                "models": source_version(self._model_modules()),
            },
        }

    def _tuning_settings(self) -> dict[str, Any]:
        """How the arms get their hyperparameters, the whole of the search's budget included."""
        if self.tuning == "fixed" or not self.trials:
            return {"kind": "fixed"}
        return {
            "kind": self.tuning,
            "trials": self.trials,
            "sampler": self.request.sampler,
            "lag": self.request.lag,
            "seed": self.request.search_seed,
            "parameters": [repr(parameter) for parameter in self.space.parameters],
            "warm_start": fingerprint(self.warm_trials) if self.request.warm_start else None,
        }

    @cached_property
    def warm_trials(self) -> tuple[Mapping[str, Any], ...]:
        """The complete trials on this dataset of the study to begin with, in their order.

        They are those under the protocol that it was last started under.
        """
        older, dataset = self.request.warm_start, self.store.annotations.dataset
        if older is None:
            return ()
        results = ResultStore(self.request.results)
        newest = newest_protocols(results, older)
        lines = results.read(
            "trials",
            study=older,
            dataset=dataset,
            protocol=newest[dataset].protocol if dataset in newest else "",
            state="complete",
        ).select(["arm", "split", "search_seed", "trial", "parameters", "validation_top1"])
        order = [(name, "ascending") for name in ("arm", "split", "search_seed", "trial")]
        return tuple(lines.sort_by(order).to_pylist())

    def _model_modules(self) -> frozenset[str]:
        """The modules of the networks of all of the space's arms, whichever are asked for."""
        modules: set[str] = set()
        for arm in (one for own in self.space.arms for one in (own, *own.stages)):
            # The settings may be none of an arm's that isn't asked for.
            with contextlib.suppress(ValueError):
                training = make_training(
                    arm.model, self.settings(arm, None), target=self.targets[0], seed=0
                )
                modules |= model_modules(meta_network(training))
        return frozenset(modules)

    @cached_property
    def plugins(self) -> tuple[str, ...]:
        """The modules from outside the project that register its space and its models."""
        arms = [one for arm in self.arms for one in (arm, *arm.stages)]
        modules = [model_module(arm.model) for arm in arms]
        if self.space.name in search_spaces.names():
            modules.insert(0, search_spaces.module_of(self.space.name))
        named = dict.fromkeys(modules)
        return tuple(name for name in named if name.partition(".")[0] not in PACKAGES)

    @property
    def row_names(self) -> tuple[str, ...]:
        """The names of all that has rows: the arms, then the ensembles."""
        return tuple([arm.name for arm in self.arms] + [one.name for one in self.ensembles])

    def settings(self, arm: Arm, found: Mapping[str, Any] | None) -> Settings:
        """Returns an arm's settings at the found values; what it starts from has none of them."""
        settings = settings_of(arm, self.base, space=self.space, found=found)
        weights = {**wanted_of(self.weights, arm.name), **arm.weights}
        starts_from = {
            given: Stage(model=first.model, settings=self.settings(first, None))
            for given, first in arm.starts_from.items()
        }
        if not starts_from and self.pretraining is not None:
            first_settings = settings_of(arm, self.pretraining.base, space=self.space)
            stage = Stage(
                model=arm.model, settings=replace(first_settings, weights=weights), pretraining=True
            )
            starts_from = {WHOLE: stage}
        return replace(settings, weights=weights, starts_from=starts_from)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All reported seeds of all splits; one variant a split where nothing varies with them."""
        seeds, vary = tuple(range(1, self.request.seeds + 1)), self.request.vary
        search_seed = self.request.search_seed
        if not vary:
            return tuple(
                Variant(target=one, seeds=seeds, search_target=one, search_seed=search_seed)
                for one in self.targets
            )
        variants = []
        for target in self.targets:
            for seed in seeds:
                own = replace(target, carve=seed) if "split-carve" in vary else target
                searched = "search" in vary
                variants.append(
                    Variant(
                        target=own,
                        seeds=(seed,),
                        search_target=own if searched else target,
                        search_seed=MOST_SEEDS * search_seed + seed if searched else search_seed,
                    )
                )
        return tuple(variants)

    @property
    def gpu(self) -> Gpu | None:
        """What trainings are planned for; None on the CPU. Those that share a GPU divide it."""
        request, share = self.request, self.request.resources.gpus_per_worker
        if not share:
            return None
        return Gpu(
            bytes=int((request.gpu_memory or GPU_GIGABYTES) * 1e9 * share),
            processes=request.resources.workers,
            classes=len(self.store.annotations.classes),
        )

    def store_of(self, training: Training) -> ClipStore:
        """Returns the clip store that one of its trainings is of."""
        first = self.pretraining
        return first.store if first is not None and training.target == first.target else self.store

    def parts_of(self, training: Training) -> Parts:
        """Returns the videos of each part that one of its trainings has."""
        if self.pretraining is not None and training.target == self.pretraining.target:
            return self.pretraining.parts
        parts = self.parts[training.target.split]
        if training.train_on == "train":
            return parts
        return replace(parts, train=(*parts.train, *parts.validation), validation=())

    def make_training(
        self, model: str, settings: Settings, *, train_on: str | None = None, **more: Any
    ) -> Training:
        """Returns a training of this study, fit to the GPU; its weights and code are filled in.

        Args:
            model: The model's name.
            settings: Its settings.
            train_on: ``train`` or ``all``; None for the request's.
            more: What else `make_training` of ``study.plan`` takes.

        Raises:
            ValueError: If an option or hyperparameter isn't valid, or the GPU is too small.
        """
        trained = settings.starts_from.keys()
        wanted = {
            stream: "none" if trained & {WHOLE, stream} else word
            for stream, word in settings.weights.items()
        }
        training = make_training(
            model,
            settings,
            train_on=train_on or self.request.train_on,
            weights=lambda net: self._weights_name(net, wanted),
            code=lambda net: source_version(model_modules(net).union(TRAINING)),
            **more,
        )
        if training.hyperparameters.activation_checkpointing and self.request.compile:
            raise ValueError(
                "activation_checkpointing doesn't go with --compile; leave one of them out"
            )
        if self.gpu is None:
            return training
        return fit_training(training, self.gpu, given=settings.hyperparameters)

    def division(self, training: Training) -> MicroBatch | None:
        """How a training's batch is divided to fit the GPU; None on the CPU.

        Raises:
            ValueError: If it doesn't fit without activation checkpointing, but is to be compiled.
        """
        if self.gpu is None:
            return None
        keep = (
            training.hyperparameters.accumulation_steps > 1
            or "accumulation_steps" in self.base.hyperparameters
            or result_depends_on_passes(training)
        )
        division = divide_batch(training, self.gpu, keep_steps=keep)
        if division.activation_checkpointing and self.request.compile:
            raise ValueError(
                f"{training.model} needs activation checkpointing to fit a GPU of "
                f"{self.gpu.bytes / 1e9:g} GB, which doesn't go with --compile; leave --compile "
                "out, or take a larger GPU and say so with --gpu-memory"
            )
        return division

    def trial(
        self,
        arms: Sequence[Arm],
        target: Target,
        values: Mapping[str, Any],
        *,
        search_seed: int = 0,
    ) -> Training:
        """Returns the training of a net at values that the search of that seed proposed.

        But for the seed, which is none of the reported, it is the training that the ablation plans
        for the net's arms at these values. What it starts from has a seed that no trial has, so
        that it is never one that a search stops.
        """
        seed = search_seed and MOST_SEEDS + search_seed
        plan = make_plan(
            arms,
            targets=(target,),
            seeds=(seed,),
            first_seed=FIRST_STAGES + seed,
            settings=lambda arm, _: self.settings(arm, values),
            training=self.make_training,
            pretraining=self._pretraining_target,
        )
        return plan.rows[0].training

    def plan(
        self,
        settings: Callable[[Arm, Target], Settings | Mapping[str, Settings]] | None = None,
        *,
        arms: Sequence[Arm] | None = None,
        variants: Sequence[Variant] | None = None,
    ) -> Plan:
        """Returns the plan of arms with the reported seeds.

        Args:
            settings: An arm's settings on a target, as of `make_plan`; untuned by default.
            arms: The arms; all of the study's by default.
            variants: The seeds, and what they are trained on; all of the study's by default.
        """

        def planned(arms: Sequence[Arm], train_on: str) -> Plan:
            return Plan.joined(
                [
                    make_plan(
                        arms,
                        targets=(variant.target,),
                        seeds=variant.seeds,
                        settings=settings or (lambda arm, _: self.settings(arm, None)),
                        training=partial(self.make_training, train_on=train_on),
                        pretraining=self._pretraining_target,
                    )
                    for variant in (self.variants if variants is None else variants)
                ]
            )

        arms = self.arms if arms is None else arms
        if not self.request.refit:
            return planned(arms, self.request.train_on)
        return planned(arms, "all").fitted_on(planned(fitting_arms(arms), "train"))

    @property
    def _pretraining_target(self) -> Target | None:
        return None if self.pretraining is None else self.pretraining.target

    def job(self, training: Training, **more: Any) -> Job:
        """Returns a job of this study."""
        if (division := self.division(training)) is not None and self.gpu is not None:
            more |= {
                "accumulation_steps": division.accumulation_steps,
                "activation_checkpointing": division.activation_checkpointing,
                "scoring_batch": choose_clips(training, self.gpu),
            }
        return Job(
            training=training,
            store=str(self.store_of(training).path),
            results=self.request.results,
            checkpoints=self.checkpoints,
            study=self.name,
            space=self.space.name,
            protocol=self.protocol,
            weights_files=self._weights_files(training),
            provenance=self.provenance,
            compile=self.request.compile,
            loader_workers=self.request.loader_workers,
            gpu=self.gpu is not None,
            plugins=self.plugins,
            **more,
        )

    @property
    def _weights_folder(self) -> Path:
        """Where downloaded weights are kept."""
        return self.folder / "weights"

    def _weights_name(self, net: VideoModel, wanted: Mapping[str, str]) -> str:
        """Returns the name of the weights that a network starts from, given those of each stream.

        Raises:
            FileNotFoundError: If a file is missing, or can't be downloaded.
            ValueError: If torchvision has no such weights, or a file isn't torchvision's.
        """
        names = {}
        for stream in net.starting_streams:
            network = wanted_network(wanted[stream], net, stream)
            found = find_weights(wanted[stream], network, folder=self._weights_folder)
            names[stream] = found.name
        return joined_name(names)

    def _weights_files(self, training: Training) -> dict[str, str]:
        """Returns by stream the file that a training of this study starts from, if any."""
        names = divided_name(training.weights, meta_network(training).starting_streams)
        return {
            stream: str(find_file(name, self.weights.values(), folder=self._weights_folder))
            for stream, name in names.items()
            if name != "none"
        }

    def random_starts(self, plan: Plan) -> list[str]:
        """Returns the networks that start from random weights though ImageNet's are asked for."""
        if "imagenet" not in self.weights.values():
            return []
        started = set()
        for training in plan.trainings.values():
            net = meta_network(training)
            if training.starts:
                continue
            for stream, name in divided_name(training.weights, net.starting_streams).items():
                network = wanted_network("imagenet", net, stream)
                if name == "none" and not has_imagenet_weights(network):
                    started.add(network or training.model)
        return sorted(started)


def fitting_arms(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Returns the arms whose fusion fits or chooses anything on the validation part."""
    return tuple(arm for arm in arms if FUSIONS[arm.fusion].fits_on_validation)


def check_settings(request: Request, dataset: str) -> None:
    """Checks what can be checked before the dataset's clip store is made.

    Raises:
        ValueError: If an arm or a changed setting isn't possible, or the study to go on with isn't
            there.
    """
    space = _space_on(request, dataset)
    if request.must_exist:
        _check_exists(request.name or f"{space.name}-{dataset}", request.results)
    arms, _ = _arms(request, space)
    wanted_weights(request.weights, default="none", arms=_arm_names(space))
    base = _of_recipe(space, request.recipe, request.changes, dataset, videos=1)
    base = base.updated(Settings.of(request.changes))
    for arm in (one for own in arms for one in (*own.stages, own)):
        target = Target(dataset=dataset, store_fingerprint="", split="")
        make_training(arm.model, settings_of(arm, base, space=space), target=target, seed=0)
    _check_changes(request.changes, arms)


def check_request(request: Request) -> Study:
    """Checks the whole of a request, before anything starts.

    Args:
        request: What a user asks for.

    Returns:
        The study that it asks for.

    Raises:
        ValueError: If an arm, split, setting or combination isn't possible; the message names
            what is.
        FileNotFoundError: If the clip store or a weights file is missing.
    """
    store = ClipStore.open(request.store)
    dataset = store.annotations.dataset
    space = _space_on(request, dataset)
    name = request.name or f"{space.name}-{dataset}"
    if request.must_exist:
        _check_exists(name, request.results)
    if request.warm_start == name:
        raise ValueError(
            f"--warm-start {name} is this study itself; give it another name with --name"
        )
    arms, ensembles = _arms(request, space)
    if request.train_on == "all":
        _check_nothing_fits(arms)
        if request.tuning != "fixed":
            raise ValueError(
                "--train-on all leaves no validation part to search on; give --tuning fixed too, "
                "or --refit in its place"
            )
    splits = request.splits or (next(iter(store.annotations.splits)),)
    parts = {}
    for split in splits:
        if split not in store.annotations.splits:
            raise ValueError(
                f"{dataset} has no split {split!r}; it has {', '.join(store.annotations.splits)}"
            )
        if "split-carve" in request.vary and store.annotations.splits[split].validation:
            raise ValueError(
                f"--vary split-carve carves other validation videos for each seed, but split "
                f"{split!r} of {dataset} names its own; leave it out"
            )
        parts[split] = split_parts(
            store.annotations, split, stored=store, train_on=request.train_on
        )
    study = Study(
        request=request,
        name=name,
        space=space,
        tuning=request.tuning,
        trials=_trials(request, space, dataset),
        weights=wanted_weights(
            request.weights,
            default="none" if dataset == "embedded" else "imagenet",
            arms=_arm_names(space),
        ),
        arms=arms,
        ensembles=ensembles,
        store=store,
        targets=tuple(
            Target(
                dataset=dataset,
                store_fingerprint=store.fingerprint,
                split=split,
            )
            for split in splits
        ),
        parts=parts,
        base=_base_settings(
            space, request.recipe, request.changes, store, videos=len(parts[splits[0]].train)
        ),
        provenance=git_state(),
        pretraining=_pretraining(request, space, store),
    )
    _check_weights(request, arms)
    _check_changes(request.changes, arms)
    _check_changes(request.pretrain_changes, arms, flag="--pretrain-set")
    _check_groups(study)
    _check_stored_members(study)
    # Checks every arm's options and finds its weights.
    plan = study.plan()
    for training in plan.trainings.values():
        _check_stacks(study.store_of(training), training)
    _check_segments(plan)
    for training in plan.trainings.values():
        study.job(training, until=training.hyperparameters.epochs)  # it fits, or is refused now
    return replace(study, starts=_starts(study, plan))


def _pretraining(request: Request, space: Space, store: ClipStore) -> Pretraining | None:
    """Returns what networks are first trained on; the settings there are of the study's space."""
    if request.pretrain_store is None:
        return None
    first = ClipStore.open(request.pretrain_store)
    if first.fingerprint == store.fingerprint:
        raise ValueError(
            f"--pretrain-data {request.pretrain_store} is the clip store of the study itself; name "
            "another"
        )
    split = next(iter(first.annotations.splits))
    parts = split_parts(first.annotations, split, stored=first, train_on="train")
    changes = {**request.changes, **request.pretrain_changes}
    return Pretraining(
        store=first,
        target=Target(
            dataset=first.annotations.dataset, store_fingerprint=first.fingerprint, split=split
        ),
        parts=parts,
        base=_base_settings(space, request.recipe, changes, first, videos=len(parts.train)),
    )


def _arm_names(space: Space) -> list[str]:
    """Returns the names of the space's arms, and of those that they start from."""
    every = (one for arm in space.arms for one in (arm, *arm.stages))
    return list(dict.fromkeys(arm.name for arm in every))


def _check_weights(request: Request, arms: Sequence[Arm]) -> None:
    """Checks that weights which are given to an arm have a stream of it to start."""
    given = request.weights if isinstance(request.weights, Mapping) else {}
    for arm in arms:
        if arm.name in given and arm.starts_from.keys() in ({WHOLE}, set(STREAMS)):
            first = ", ".join(dict.fromkeys(one.name for one in arm.starts_from.values()))
            raise ValueError(
                f"--weights {arm.name}=…: the arm starts from trainings of {first}; give the "
                "weights to these"
            )


def _check_results(results: str) -> None:
    if "://" not in results:
        for folder in (Path(results), *Path(results).parents):
            if folder.is_file():
                raise ValueError(f"--results must be a folder, which is made, got file {folder}")


def _space_on(request: Request, dataset: str) -> Space:
    """Returns the space as it is on the dataset; what the user sets isn't searched."""
    if request.dataset not in (None, dataset):
        raise ValueError(
            f"--data {request.store} is a store of {dataset!r}, but --dataset says "
            f"{request.dataset!r}; leave --dataset out, or name the store of that dataset"
        )
    space = request.space.on(dataset)
    searched = {parameter.name: parameter for parameter in (*space.parameters, *request.parameters)}
    return replace(
        space,
        parameters=tuple(one for name, one in searched.items() if name not in request.changes),
    )


def _arms(request: Request, space: Space) -> tuple[tuple[Arm, ...], tuple[Ensemble, ...]]:
    """Returns the wanted arms, members of wanted ensembles included, and the ensembles."""
    if request.arms is None:
        if default := tuple(arm for arm in space.arms if arm.default):
            run = {arm.name for arm in default}
            return default, tuple(one for one in space.ensembles if run.issuperset(one.members))
        raise ValueError(
            f"space {space.name!r} has no arm that runs by default; name --arms of "
            f"{', '.join(arm.name for arm in space.arms)}"
        )
    known = {one.name: one for one in space.ensembles}
    ensembles = tuple(known[name] for name in request.arms if name in known)
    names = [name for name in request.arms if name not in known]
    names += [member for one in ensembles for member in one.arms]
    return tuple(map(space.arm, dict.fromkeys(names))), ensembles


def _check_stored_members(study: Study) -> None:
    """Checks that results have the rows of other studies that ensembles average."""
    results = ResultStore(study.request.results)
    for ensemble in study.ensembles:
        for variant, name in product(study.variants, ensemble.stored):
            target = variant.target
            tested = {video.name for video in study.parts[target.split].test}
            for seed in variant.seeds:
                member = find_member(
                    results,
                    name,
                    weight=ensemble.members[name],
                    study=study.name,
                    protocol=study.protocol,
                    dataset=target.dataset,
                    split=target.split,
                    seed=seed,
                )
                if tested_videos(results, member) != tested:
                    raise ValueError(
                        f"{name} was tested on other videos of {target.dataset} split "
                        f"{target.split} than {study.request.store} has; prepare both stores from "
                        "the same videos"
                    )


def _check_exists(name: str, results: str) -> None:
    if name not in (known := known_studies(results)):
        raise ValueError(
            f"--resume: there is no study {name!r} in {results}; there "
            f"{'is ' + ', '.join(known) if known else 'are none'}"
        )


def _trials(request: Request, space: Space, dataset: str) -> int:
    """Returns the trials asked for, or 4 a parameter and at least 10; 3 on embedded (ours)."""
    if request.trials is not None:
        return request.trials
    return 3 if dataset == "embedded" else max(10, 4 * len(space.parameters))


def _starts(study: Study, plan: Plan) -> tuple[str, ...]:
    """Returns what each network takes of weights files and of other trainings, a line each.

    What doesn't fit is refused now. Torchvision's ImageNet weights fit where all have them.
    """
    return tuple(dict.fromkeys((*_starts_of_trainings(plan), *_starts_of_files(study, plan))))


def _starts_of_trainings(plan: Plan) -> Iterator[str]:
    for training, report in start_reports(plan.trainings.values()):
        yield f"{training.model}, {' and '.join(report.streams)}, from {_described(report)}"


def _starts_of_files(study: Study, plan: Plan) -> Iterator[str]:
    """Loads weights into each network once."""
    if set(study.weights.values()) in ({"imagenet"}, {"none"}):
        return
    seen = set()
    for training in plan.trainings.values():
        net = canonical_json([training.model, training.options, training.weights])
        if net not in seen:
            seen.add(net)
            job = study.job(training, until=training.hyperparameters.epochs)
            started: list[StartReport] = []
            classes = len(study.store_of(training).annotations.classes)
            build_model(job, num_classes=classes, report=started.append)
            for one in started:
                file = Path(job.weights_files[one.streams[0]]).name
                streams = " and ".join(one.streams)
                yield f"{training.model}, {streams}, from {file}: {_described(one)}"


def _described(started: StartReport) -> str:
    """Returns in words what became of each tensor of a state dict, and what stays as drawn."""
    reasons: dict[str, list[str]] = {}
    for name, reason in started.left_out.items():
        reasons.setdefault(reason, []).append(name)
    left_out = [f"left out {_few(names)} ({reason})" for reason, names in reasons.items()]
    drawn = [f"drawn at random {_few(started.drawn)}"] if started.drawn else []
    parts = [f"{len(started.used)} tensors of {started.title}", *left_out, *drawn]
    return "; ".join(parts)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_changes(changes: Mapping[str, Any], arms: Sequence[Arm], flag: str = "--set") -> None:
    """Checks that each changed option reaches an arm whose model has it and that doesn't fix it."""
    for name in changes:
        option = name.removeprefix("options.")
        if option == name or any(
            option in arm.known_options and option not in arm.options for arm in arms
        ):
            continue
        known = sorted(frozenset().union(*(a.known_options - a.options.keys() for a in arms)))
        raise ValueError(
            f"{flag} {name} changes none of the arms: their models don't have it, or the arms fix "
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


def _check_stacks(store: ClipStore, training: Training) -> None:
    if store.settings.stacks is None:
        return
    if training.hyperparameters.frame_stride is not None:
        raise ValueError(
            f"frame_stride is {training.hyperparameters.frame_stride}, but the clip store "
            f"{store.path} has {store.settings.stacks} stacks of a video, not frames in a row; "
            "prepare a store without --stacks, or name other --arms"
        )
    if training.hyperparameters.flow_length > store.settings.flow_length:
        raise ValueError(
            f"flow_length is {training.hyperparameters.flow_length}, but the clip store "
            f"{store.path} has stacks of {store.settings.flow_length} flow fields; set a "
            "smaller flow_length, or prepare a store with longer stacks"
        )


def _check_nothing_fits(arms: Sequence[Arm]) -> None:
    if fitting := [arm.name for arm in fitting_arms(arms)]:
        raise ValueError(
            f"--train-on all leaves no validation part, but {', '.join(fitting)} fit their fusion "
            "on it; give --refit in its place, or name other --arms"
        )


def _check_groups(study: Study) -> None:
    """Checks that validation videos can be divided so that none is judged by what it chose.

    That is of every carve; each must leave videos in all parts, too.
    """
    judged = list(study.arms)
    if study.tuning == "shared" and study.trials:
        judged.append(study.space.arm(study.space.search_arm))
    choosing = {arm.name: None for arm in judged if FUSIONS[arm.fusion].takes_lambda}
    fitting = {arm.name: None for arm in fitting_arms(judged)}
    own = study.tuning == "own" and study.trials
    needs = (
        (fitting, "fit their fusion on", 2, "name other --arms"),
        (
            choosing if study.base.fusion_lambda is None else {},
            "fit their fusion on",
            3,
            "give --set fusion_lambda=1, or name other --arms",
        ),
        (
            [arm.name for arm in study.arms] if own else [],
            "choose among trials by",
            2,
            "give --tuning net",
        ),
    )
    both = ((one.target, one.search_target) for one in study.variants)
    for target in dict.fromkeys(target for targets in both for target in targets):
        parts = split_parts(
            study.store.annotations,
            target.split,
            stored=study.store,
            train_on=study.request.train_on,
            carve=target.carve,
        )
        groups = len({video.group for video in parts.validation})
        carve = f" as seed {target.carve} carves it" if target.carve else ""
        for names, do, least, remedy in needs:
            if names and groups < least:
                raise ValueError(
                    f"the validation part of split {target.split}{carve} has {groups} source "
                    f"videos, but {', '.join(names)} {do} at least {least}; {remedy}"
                )


def _of_recipe(
    space: Space, recipe: str, changes: Mapping[str, Any], dataset: str, *, videos: int
) -> Settings:
    """Returns the space's settings and the recipe's, for so many train videos."""
    base = space.settings.updated(RECIPES[recipe])
    if recipe != "iterations":
        return base
    batch_size = base.updated(Settings.of(changes)).hyperparameters["batch_size"]
    return base.updated(in_iterations(space, dataset, videos=videos, batch_size=batch_size))


def _base_settings(
    space: Space, recipe: str, changes: Mapping[str, Any], store: ClipStore, *, videos: int
) -> Settings:
    """Returns the recipe's settings, fitted to what the store holds, then the user's changes."""
    base = _of_recipe(space, recipe, changes, store.annotations.dataset, videos=videos)
    asked = base.updated(Settings.of(changes)).hyperparameters
    fitted: dict[str, Any] = {"crop_size": _crop_size(store.settings.short_side)}
    if (tested := base.hyperparameters.get("test_crop_size")) is not None:
        fitted["test_crop_size"] = min(tested, store.settings.short_side)
    wanted = base.hyperparameters.get("flow_length", 10)
    if store.settings.stacks is not None:
        fitted["flow_length"] = min(wanted, store.settings.flow_length)
        fitted["frame_stride"] = None
        if "test_segments" not in base.hyperparameters:
            fitted["test_segments"] = min(25, store.settings.stacks)
        elif base.hyperparameters.get("test_clips", 1) > 1:  # those that have their own frames
            clips = -(-store.settings.stacks // Hyperparameters.of(asked).test_segments)
            fitted["test_clips"] = min(base.hyperparameters["test_clips"], clips)
    return base.updated(Settings(hyperparameters=fitted)).updated(Settings.of(changes))


def _crop_size(short_side: int) -> int:
    """Returns 7/8 of the short side, as 224 is of 256 (ours for other sizes)."""
    return max(1, short_side * 7 // 8)


def known_studies(results: str) -> list[str]:
    """Returns the names of the studies that have a result in a results folder."""
    store = ResultStore(results)
    lines = [store.read(view, columns=["study"])["study"] for view in ("trials", "trainings")]
    return sorted({name for column in lines for name in column.to_pylist()})
