"""What a study compares and what it searches: arms, parameters and the space that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

__all__ = ["Arm", "Choice", "Parameter", "Real", "Settings", "Space"]

FUSIONS = (
    "spatial",
    "temporal",
    "average",
    "weighted",
    "early",
    "awf-simplex",
    "awf-floor",
    "awf-l2",
    "awf-entropy",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a training is run with beside its model's name.

    Attributes:
        options: The model's options by name, as its options dataclass takes them.
        hyperparameters: Fields of ``study.training.hyperparameters.Hyperparameters`` by name.
        fusion_lambda: λ of adaptively weighted fusion (STILT eq. 5), or None to choose it by
            cross-fitting on the validation part. It changes no training.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    fusion_lambda: float | None = None

    def updated(self, other: "Settings") -> "Settings":
        """These settings with those that ``other`` names put over them.

        Loss weights are merged by name, everything else is replaced.
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
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from dotted names, the form that ``--set`` and a search's proposals have.

        ``options.NAME`` is a model option, ``loss_weights.NAME`` a loss weight,
        ``fusion_lambda`` is λ, and any other name a hyperparameter.
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
class Arm:
    """One row of an ablation table: a model, its options, and how its streams' scores are fused.

    Attributes:
        name: The arm's name in commands and in the results, such as ``stil-awf-simplex``.
        label: The arm as a table prints it.
        model: A name from ``models.list_models()``.
        options: Model options that make this arm what it is; nothing overrides them.
        hyperparameters: Hyperparameters that make this arm what it is; nothing overrides them.
        fusion: How the streams' scores become one: a stream's name for that stream alone,
            ``average`` and ``weighted`` late fusion, ``early`` (features and a linear SVM), or
            one of the forms of adaptively weighted fusion.
        default: Whether a study of the space runs the arm when none is named.
    """

    name: str
    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    fusion: str = "average"
    default: bool = True

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(
                f"arm {self.name!r}: unknown fusion {self.fusion!r}; known are {', '.join(FUSIONS)}"
            )

    @property
    def own(self) -> Settings:
        """The settings that make the arm what it is."""
        return Settings(options=self.options, hyperparameters=self.hyperparameters)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A value that the search proposes.

    Attributes:
        name: A dotted name, as ``Settings.of`` reads it.
        applies_to: Model options, each with the value under which the parameter makes a
            difference. An arm that sets one otherwise doesn't take the found value, so that it
            doesn't look like a new training.
    """

    name: str
    applies_to: tuple[tuple[str, Any], ...] = ()

    def suggest(self, trial: "optuna.Trial") -> Any:
        """Proposes a value."""
        raise NotImplementedError

    def allows(self, value: Any) -> bool:
        """Whether the search could propose the value."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Real(Parameter):
    """A real number in [low, high], drawn uniformly or, with ``log``, log-uniformly."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"parameter {self.name!r}: low <= high (and low > 0 with log) must hold, but got "
                f"(low={self.low}, high={self.high}, log={self.log})"
            )

    def suggest(self, trial: "optuna.Trial") -> float:
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def allows(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice(Parameter):
    """One of a few values (numbers or strings)."""

    choices: tuple[Any, ...]

    def suggest(self, trial: "optuna.Trial") -> Any:
        return trial.suggest_categorical(self.name, self.choices)

    def allows(self, value: Any) -> bool:
        return value in self.choices


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A system's study: the arms of its ablation and the parameters of its search.

    Attributes:
        name: The name that ``--space`` takes.
        title: The system and its paper, in a line.
        arms: Every arm; those with ``default`` run when none is named.
        search_arm: The arm whose validation accuracy a shared search maximises.
        parameters: What the search proposes.
        tables: The tables that a study of the space prints, by name.
        settings: The system's own settings on a real dataset, as its paper has them.
        embedded: What the embedded dataset's small clips need put over them.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    search_arm: str
    parameters: tuple[Parameter, ...]
    tables: tuple[str, ...]
    settings: Settings
    embedded: Settings

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"space {self.name!r} names arms twice: {', '.join(repeated)}")
        self.arm(self.search_arm)

    def arm(self, name: str) -> Arm:
        """The arm of that name.

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

    def parameters_for(self, arm: Arm) -> tuple[Parameter, ...]:
        """The parameters that make a difference to an arm."""
        return tuple(
            parameter
            for parameter in self.parameters
            if all(arm.options.get(name, value) == value for name, value in parameter.applies_to)
            and (parameter.name != "fusion_lambda" or arm.fusion.startswith("awf-"))
        )

    def found_for(self, arm: Arm, values: Mapping[str, Any]) -> Settings:
        """The part of the found values that makes a difference to an arm."""
        known = {parameter.name for parameter in self.parameters_for(arm)}
        return Settings.of({name: value for name, value in values.items() if name in known})
