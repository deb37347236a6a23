"""What a study compares and what it searches: arms, parameters and the space that holds them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import models  # whose networks, and with them torch, come at the first use of a name
from models.checks import check_names, check_number
from models.fusion import FUSIONS

if TYPE_CHECKING:
    import optuna

__all__ = [
    "ENSEMBLE",
    "METRICS",
    "STREAMS",
    "TUNINGS",
    "WHOLE",
    "Arm",
    "Choice",
    "Ensemble",
    "Parameter",
    "Real",
    "Settings",
    "Space",
    "Stage",
    "Table",
    "TableRow",
]

STREAMS = ("spatial", "temporal")
WHOLE = "*"
"""In the place of a stream, the whole network."""

TUNINGS = ("net", "own", "shared", "fixed")
ENSEMBLE = "ensemble"
"""What the results have as the fusion of an `Ensemble`."""
METRICS = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class"}
"""The accuracies that a table can show, each as it prints it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a training is run with in addition to its model's name.

    Attributes:
        options: The model's options by name, as its options dataclass takes them.
        hyperparameters: Fields of ``study.training.hyperparameters.Hyperparameters`` by name.
        fusion_lambda: λ >= 0 of adaptively weighted fusion (STILT eq. 5), or None to choose it by
            cross-fitting on the validation part. It changes no training.
        weights: What each stream starts from, in the words of ``--weights``; empty where a study
            hasn't said.
        starts_from: The trainings that the network starts from, by stream, or by ``*`` for the
            whole of it; an arm says which, and a study fills them in.

    Raises:
        ValueError: If λ is no finite number of at least 0.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    fusion_lambda: float | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    starts_from: Mapping[str, "Stage"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fusion_lambda is not None:
            check_number("fusion_lambda", self.fusion_lambda, least=0)

    def updated(self, other: "Settings") -> "Settings":
        """Returns these settings, replaced by those of ``other`` where it names any.

        Loss weights are merged by name.
        """
        hyperparameters = {**self.hyperparameters, **other.hyperparameters}
        weights = {
            **self.hyperparameters.get("loss_weights", {}),
            **other.hyperparameters.get("loss_weights", {}),
        }
        if weights:
            hyperparameters["loss_weights"] = weights
        return Settings(
            options={**self.options, **other.options},
            hyperparameters=hyperparameters,
            fusion_lambda=self.fusion_lambda
            if other.fusion_lambda is None
            else other.fusion_lambda,
            weights={**self.weights, **other.weights},
            starts_from={**self.starts_from, **other.starts_from},
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """Returns settings from dotted names, the form of ``--set`` and of a search's proposals.

        Args:
            values: ``options.NAME`` is a model option, ``loss_weights.NAME`` a loss weight,
                ``fusion_lambda`` is λ, and any other name a hyperparameter.

        Raises:
            ValueError: If λ is no finite number of at least 0.
        """
        options: dict[str, Any] = {}
        hyperparameters: dict[str, Any] = {}
        weights: dict[str, float] = {}
        fusion_lambda = None
        for name, value in values.items():
            head, _, rest = name.partition(".")
            if head == "options" and rest:
                options[rest] = value
            elif head == "loss_weights" and rest:
                weights[rest] = value
            elif name == "fusion_lambda":
                fusion_lambda = value
            else:
                hyperparameters[name] = value
        if weights:
            hyperparameters["loss_weights"] = weights
        return cls(options=options, hyperparameters=hyperparameters, fusion_lambda=fusion_lambda)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A training that another one starts from.

    Attributes:
        model: The model's name.
        settings: Its settings, none of them found by a search.
        pretraining: Whether it is trained on the data that the study pretrains on.
    """

    model: str
    settings: Settings
    pretraining: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One row of an ablation table: a model, its options, and how its streams' scores are fused.

    Attributes:
        name: The arm's name in commands and in the results, such as ``stil-awf-simplex``.
        label: The arm in words; a table prints it unless its row says otherwise.
        model: A name from ``models.list_models()``.
        options: Model options that make this arm what it is; nothing overrides them.
        hyperparameters: Hyperparameters that make this arm what it is; nothing overrides them.
        weights: By stream, what it starts from in this arm, in the words of ``--weights``; nothing
            overrides it. A stream that isn't named starts as the study says.
        fusion: How the streams' scores become one: a name in ``models.fusion.FUSIONS``.
        default: Whether a study of the space runs the arm when none is named.
        starts_from: Arms whose trained networks its network starts from, by stream, or one by
            ``*`` for the whole network. They needn't be arms of a space. They are trained with the
            same split and seed, at settings that no search has found.

    Raises:
        ValueError: If there is no such fusion or stream, or a start is of no stream.
    """

    name: str
    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    fusion: str = "average"
    default: bool = True
    starts_from: Mapping[str, "Arm"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(
                f"arm {self.name!r}: unknown fusion {self.fusion!r}; known are {', '.join(FUSIONS)}"
            )
        if not (self.starts_from.keys() <= set(STREAMS) or self.starts_from.keys() == {WHOLE}):
            raise ValueError(
                f"arm {self.name!r}: starts_from takes streams ({', '.join(STREAMS)}), or "
                f"{WHOLE!r} alone for the whole network, but got "
                f"{', '.join(map(repr, self.starts_from))}"
            )
        check_names(f"streams of arm {self.name!r}'s weights", self.weights, STREAMS)

    @property
    def own(self) -> Settings:
        """The settings that make the arm what it is."""
        return Settings(
            options=self.options, hyperparameters=self.hyperparameters, weights=self.weights
        )

    @property
    def stages(self) -> tuple["Arm", ...]:
        """The arms that it starts from, directly or not, each after those that it starts from."""
        found = [one for first in self.starts_from.values() for one in (*first.stages, first)]
        return tuple({one.name: one for one in found}.values())

    @property
    def known_options(self) -> frozenset[str]:
        """The options that the arm's model has."""
        return frozenset(field.name for field in fields(models.model_options(self.model)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble:
    """A row that trains nothing: the weighted mean of the scores of arms that train apart.

    Attributes:
        name: Its name in commands and in the results, which no arm has.
        label: The row in words.
        members: By member, its weight. A member is an arm of the space, at least one of them, or
            ``STUDY/ARM``: the arm's rows in another study of the same results, on the same dataset,
            splits and seeds, as of a store with other flow. A study that runs an ensemble runs its
            own arms among the members.

    Raises:
        ValueError: If it has fewer than two members, none of the space, or a weight isn't positive.
    """

    name: str
    label: str
    members: Mapping[str, float]

    def __post_init__(self) -> None:
        check_number(f"weights of ensemble {self.name!r}", tuple(self.members.values()), above=0)
        if len(self.members) < 2 or not self.arms:
            raise ValueError(
                f"ensemble {self.name!r} needs two members or more, an arm of its own space among "
                f"them, but got {', '.join(self.members) or 'none'}"
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the members that are arms of its own space."""
        return tuple(name for name in self.members if "/" not in name)

    @property
    def stored(self) -> tuple[str, ...]:
        """The members that are another study's, as ``STUDY/ARM``."""
        return tuple(name for name in self.members if "/" in name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A value that the search proposes.

    Attributes:
        name: A dotted name, as ``Settings.of`` reads it.
        applies_to: Model options, each with the values under which a hyperparameter makes a
            difference. An arm that sets one otherwise, or whose model doesn't have it, doesn't
            take the found value. Of a model option, the model itself knows.
    """

    name: str
    applies_to: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def matters_to(self, arm: Arm) -> bool:
        """Returns whether an arm's result depends on it: nothing overrides an arm's own value."""
        head, _, option = self.name.partition(".")
        if self.name in arm.hyperparameters:
            return False
        if head == "options" and (
            option not in arm.known_options
            or option in arm.options
            or option in models.options_without_effect(arm.model, arm.options)
        ):
            return False
        return all(
            name in arm.known_options and arm.options.get(name, values[0]) in values
            for name, values in self.applies_to
        )

    def to_optuna(self, value: Any) -> Any:
        """Returns a value as Optuna stores it."""
        return value

    def from_optuna(self, stored: Any) -> Any:
        """Returns the value that Optuna stores so."""
        return stored

    def suggest(self, trial: "optuna.Trial") -> Any:
        """Returns the value that a trial proposes, as Optuna stores it."""
        raise NotImplementedError

    def allows(self, value: Any) -> bool:
        """Returns whether the search could propose the value."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Real(Parameter):
    """A real number, drawn uniformly or log-uniformly.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether its logarithm is what is uniform.

    Raises:
        ValueError: If a limit isn't finite, the range is empty, or it reaches zero with ``log``.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        check_number(f"limits of parameter {self.name!r}", (self.low, self.high))
        if not self.low <= self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"parameter {self.name!r}: low <= high (and low > 0 with log) must hold, but got "
                f"(low={self.low}, high={self.high}, log={self.log})"
            )

    def suggest(self, trial: "optuna.Trial") -> float:
        """Returns a number from the range."""
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def allows(self, value: Any) -> bool:
        """Returns whether the value is a number in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice(Parameter):
    """One of a few values.

    Attributes:
        choices: Numbers, strings, or tuples of strings.
    """

    choices: tuple[Any, ...]

    def suggest(self, trial: "optuna.Trial") -> Any:
        """Returns one of the choices, as Optuna stores it."""
        return trial.suggest_categorical(self.name, tuple(map(self.to_optuna, self.choices)))

    def to_optuna(self, value: Any) -> Any:
        """Returns a value as Optuna stores it, which has no tuples: ``relu3+relu5``."""
        return "+".join(value) if isinstance(value, tuple) else value

    def from_optuna(self, stored: Any) -> Any:
        """Returns the choice that Optuna stores so."""
        return next(value for value in self.choices if self.to_optuna(value) == stored)

    def allows(self, value: Any) -> bool:
        """Returns whether the value is one of the choices."""
        return value in self.choices


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table: an arm, a comparator of which there are printed numbers alone, or both.

    Attributes:
        arm: The arm's name, or None where no arm gives our numbers.
        label: The row as the table prints it; empty for the arm's own label.
        published: The row's name in ``published.csv``; empty for the arm's name.
        note: What to know of the row, in a footer, in addition to the notes of its numbers.
        space: The space whose arm it is; empty for the table's own.

    Raises:
        ValueError: If a row without an arm lacks its label or the name of its numbers, or one of
            another space's arm its label.
    """

    arm: str | None
    label: str = ""
    published: str = ""
    note: str = ""
    space: str = ""

    def __post_init__(self) -> None:
        if self.space and not (self.arm and self.label):
            raise ValueError(
                "a row of another space needs that space's arm and a label, but got "
                f"(arm={self.arm!r}, label={self.label!r}, space={self.space!r})"
            )
        if self.arm is None and not (self.label and self.published):
            raise ValueError(
                "a row without an arm needs its label and the name of its published numbers, but "
                f"got (label={self.label!r}, published={self.published!r})"
            )

    @property
    def key(self) -> str:
        """The row's name, which no other row of the table has."""
        return self.arm or self.published

    @property
    def published_key(self) -> str:
        """The row's name in ``published.csv``."""
        return self.published or self.key


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table that a space prints: our numbers beside the published ones.

    Attributes:
        name: The table's name in commands, which no table of another space has.
        title: What it shows, in a line.
        rows: Its rows in order; empty for all arms of the space.
        metrics: The accuracies that it shows, names of ``METRICS``, published or not.
        datasets: The paper's datasets in its order; only needed where that isn't the order of the
            published numbers, or where none is public.
        ours: Whether no paper prints it.
        note: What to know of the whole table, in a footer.

    Raises:
        ValueError: If it shows no metric, an unknown one, or a row twice.
    """

    name: str
    title: str
    rows: tuple[TableRow, ...] = ()
    metrics: tuple[str, ...] = ("top1",)
    datasets: tuple[str, ...] = ()
    ours: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(
                f"table {self.name!r}: at least one metric of {', '.join(METRICS)} is needed, but "
                f"got {self.metrics}"
            )
        for names in ([row.key for row in self.rows], [row.published_key for row in self.rows]):
            if repeated := _repeated(names):
                raise ValueError(f"table {self.name!r} has rows twice: {', '.join(repeated)}")

    @property
    def arms(self) -> frozenset[str]:
        """The names of its own space's arms that it shows."""
        return self.arms_of("")

    def arms_of(self, space: str) -> frozenset[str]:
        """Returns the names of the arms that it shows of another space."""
        return frozenset(row.arm for row in self.rows if row.arm and row.space == space)

    @property
    def other_spaces(self) -> tuple[str, ...]:
        """The other spaces of which it shows arms."""
        return tuple(dict.fromkeys(row.space for row in self.rows if row.space))


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A system's study: its arms, the parameters of its search, and the tables that it prints.

    Attributes:
        name: The name that ``--space`` takes.
        title: The system and its paper, in a line.
        arms: Every arm; those with ``default`` run when none is named.
        search_arm: The arm whose validation accuracy a search for all arms maximises.
        parameters: What the search proposes. λ isn't among it: each arm's is chosen from scores
            that are stored.
        ensembles: Means of its arms' scores, which a study computes by default where it has all of
            an ensemble's members.
        tables: The tables; together they show every arm and ensemble. Left empty, there is one of
            all of them, named as the space. A study prints the tables that show any of its arms.
        settings: The system's own settings on a real dataset, as its paper has them. An option
            reaches the arms whose model has it.
        iterations: Where the paper counts iterations: by dataset, and by ``""`` for any other,
            after how many the rate falls and how many there are.
        variants: For each dataset that the space fits only with other settings, arms or
            parameters, by the dataset's name: what makes it fit. See ``on``.

    Raises:
        ValueError: If the search's arm, an arm in a table or a member of an ensemble is unknown,
            two arms or two tables have one name, an arm is in no table, a member's fusion is
            fitted, or λ is to be searched.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    search_arm: str
    parameters: tuple[Parameter, ...]
    settings: Settings
    ensembles: tuple[Ensemble, ...] = ()
    tables: tuple[Table, ...] = ()
    iterations: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    variants: Mapping[str, Callable[["Space"], "Space"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "fusion_lambda" in [parameter.name for parameter in self.parameters]:
            raise ValueError(
                f"space {self.name!r}: fusion_lambda is not searched, as each arm's is chosen from "
                "stored validation scores; --set fusion_lambda=… gives all arms one"
            )
        for kind, named in (("arms", self.rows), ("tables", self.tables)):
            if repeated := _repeated([one.name for one in named]):
                raise ValueError(f"space {self.name!r} names {kind} twice: {', '.join(repeated)}")
        self.arm(self.search_arm)
        self._check_members()
        tables = self.tables or (self._table_of_all(),)
        object.__setattr__(self, "tables", tuple(self._completed(table) for table in tables))
        shown = frozenset().union(*(table.arms for table in self.tables))
        if unshown := [arm.name for arm in self.rows if arm.name not in shown]:
            raise ValueError(
                f"space {self.name!r}: no table shows {', '.join(unshown)}; give each a row in one "
                f"of {', '.join(table.name for table in self.tables)}"
            )

    @property
    def rows(self) -> tuple[Arm | Ensemble, ...]:
        """Its arms, then its ensembles: all that a table can show of it."""
        return (*self.arms, *self.ensembles)

    def _check_members(self) -> None:
        for ensemble in self.ensembles:
            for arm in map(self.arm, ensemble.arms):
                if FUSIONS[arm.fusion].fits_on_validation:
                    raise ValueError(
                        f"space {self.name!r}: ensemble {ensemble.name!r} takes members whose "
                        f"fusion fits nothing, but {arm.name!r} has {arm.fusion!r}; name an arm "
                        "with average or weighted, or of one stream"
                    )

    def _table_of_all(self) -> Table:
        return Table(name=self.name, title=self.title, ours=True, note="all arms of the space")

    def _completed(self, table: Table) -> Table:
        """Returns the table with its default rows and labels."""
        labels = {arm.name: arm.label for arm in self.rows}
        if unknown := sorted(table.arms - labels.keys()):
            raise ValueError(
                f"space {self.name!r}, table {table.name!r}: there is no arm "
                f"{', '.join(unknown)}; there are {', '.join(labels)}"
            )
        rows = table.rows or tuple(map(TableRow, labels))
        return replace(
            table,
            rows=tuple(
                row if row.label or row.arm is None else replace(row, label=labels[row.arm])
                for row in rows
            ),
        )

    def arm(self, name: str) -> Arm:
        """Returns the arm of that name.

        Raises:
            ValueError: If there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ValueError(
            f"space {self.name!r} has no arm {name!r}; it has "
            f"{', '.join(arm.name for arm in self.arms)}"
        )

    def on(self, dataset: str) -> "Space":
        """Returns the space as it is on a dataset: its variant there, or else the space itself."""
        if dataset not in self.variants:
            return self
        return replace(self.variants[dataset](self), variants={})

    def parameters_for(self, arm: Arm) -> tuple[Parameter, ...]:
        """Returns the parameters that make a difference to an arm."""
        return tuple(parameter for parameter in self.parameters if parameter.matters_to(arm))

    def found_for(self, arm: Arm, values: Mapping[str, Any]) -> Settings:
        """Returns the part of the values that a search found that makes a difference to an arm.

        Args:
            arm: The arm.
            values: By the parameters' names, as Optuna stores them.
        """
        known = {parameter.name: parameter for parameter in self.parameters_for(arm)}
        return Settings.of(
            {
                name: known[name].from_optuna(value)
                for name, value in values.items()
                if name in known
            }
        )


def _repeated(names: Sequence[str]) -> list[str]:
    """Returns the names that are there more than once."""
    return sorted({name for name in names if names.count(name) > 1})
