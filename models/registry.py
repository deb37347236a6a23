"""The networks by name.

A network is a ``VideoModel`` registered together with a frozen dataclass of its options::

    @dataclass(frozen=True, kw_only=True, slots=True)
    class MyOptions:
        hidden: int = 64

        def __post_init__(self) -> None:
            check_fields(self)
            check_count("hidden", self.hidden)

    @register_model("mine", MyOptions)
    class Mine(VideoModel):
        def __init__(self, options: MyOptions, *, num_classes: int) -> None:
            super().__init__(num_classes=num_classes)
            self.heads = nn.ModuleDict()
            for stream in self.streams:
                with self.own_seed(stream):
                    self.heads[stream] = ...

        def forward(self, rgb=None, flow=None) -> ModelOutput:
            self.check_inputs(rgb, flow)
            ...

Whatever belongs to one stream alone lies in an ``nn.ModuleDict`` under that stream's name. Options
of which some make no difference under some values of the others have a method ``without_effect``
that returns the names of those, so that no network is trained twice for them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from models.checks import check_names
from models.plugins import MODELS, import_entry_points
from models.video_model import VideoModel

__all__ = [
    "create_model",
    "list_models",
    "make_options",
    "model_module",
    "model_options",
    "options_without_effect",
    "register_model",
]

_Model = TypeVar("_Model", bound=VideoModel)
_MODELS: dict[str, tuple[type[VideoModel], type]] = {}


def register_model(name: str, options: type) -> Callable[[type[_Model]], type[_Model]]:
    """Makes a network known by its name; a class decorator.

    Args:
        name: The name for ``create_model``.
        options: Frozen, keyword-only dataclass of its options, each with a default, which checks
            itself in ``__post_init__``. The class is called as ``cls(options, num_classes=N)``.

    Raises:
        ValueError: If the name is taken, or the class or its options are of another kind.
    """

    def register(cls: type[_Model]) -> type[_Model]:
        if name in _MODELS:
            raise ValueError(
                f"a model {name!r} is registered already by {_MODELS[name][0].__module__}; give "
                "this one another name"
            )
        if not issubclass(cls, VideoModel):
            raise ValueError(f"model {name!r} must be a VideoModel, but got {cls}")
        _check_options(name, options)
        cls.model_name = name
        _MODELS[name] = (cls, options)
        return cls

    return register


def list_models() -> list[str]:
    """Returns the names of all registered models, sorted."""
    import_entry_points(MODELS)
    return sorted(_MODELS)


def model_module(name: str) -> str:
    """Returns the name of the module that defines a model.

    Raises:
        ValueError: If there is no such model.
    """
    return _find(name)[0].__module__


def model_options(name: str) -> type:
    """Returns the dataclass of a model's options.

    Raises:
        ValueError: If there is no such model.
    """
    return _find(name)[1]


def make_options(name: str, options: Mapping[str, Any]) -> Any:
    """Returns the checked options of a model; what isn't given has its default.

    Args:
        name: The model's name.
        options: Values by name, in Python's form or JSON's.

    Raises:
        ValueError: If there is no such model or option, or a value isn't allowed.
    """
    kind = model_options(name)
    try:
        check_names("options", options, [field.name for field in dataclasses.fields(kind)])
        return kind(**options)
    except ValueError as error:
        raise ValueError(f"model {name!r}: {error}") from error


def options_without_effect(name: str, options: Mapping[str, Any]) -> frozenset[str]:
    """Returns the names of a model's options that make no difference beside the others.

    Networks that differ in these alone have equal weights and equal outputs.

    Args:
        name: The model's name.
        options: Values by name; what isn't given has its default.

    Raises:
        ValueError: If there is no such model or option, or a value isn't allowed.
    """
    made = make_options(name, options)
    unused: frozenset[str] = (
        made.without_effect() if hasattr(made, "without_effect") else frozenset()
    )
    return unused


def create_model(name: str, *, num_classes: int, **options: Any) -> VideoModel:
    """Builds a model, in training mode.

    Initial weights are drawn from torch's global random state.

    Args:
        name: The model's name.
        num_classes: Number of classes N, two or more.
        **options: Its options; what isn't given has its default.

    Raises:
        ValueError: If there is no such model or option, or a value isn't allowed.
    """
    cls, _ = _find(name)
    build: Callable[..., VideoModel] = cls
    return build(make_options(name, options), num_classes=num_classes).train()


def _check_options(name: str, options: type) -> None:
    if not dataclasses.is_dataclass(options):
        raise ValueError(f"the options of model {name!r} must be a dataclass, but got {options}")
    missing = dataclasses.MISSING
    required = [
        field.name
        for field in dataclasses.fields(options)
        if field.default is missing and field.default_factory is missing
    ]
    if required:
        raise ValueError(
            f"every option of model {name!r} needs a default, but {', '.join(required)} "
            f"{'has' if len(required) == 1 else 'have'} none"
        )


def _find(name: str) -> tuple[type[VideoModel], type]:
    import_entry_points(MODELS)
    if name not in _MODELS:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(list_models())}")
    return _MODELS[name]
