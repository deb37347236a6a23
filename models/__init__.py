"""Networks: tensors in, tensors out.

The first use of a name below imports every module of the package, and with it registers every
network; those of installed packages are imported at the first question for a network. Until then
torch isn't imported: a process that prepares videos has no need of it, but checks its settings with
``models.checks``.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from models.plugins import import_plugin

if TYPE_CHECKING:
    from models.output import ModelOutput
    from models.registry import (
        create_model,
        list_models,
        make_options,
        model_module,
        model_options,
        options_without_effect,
        register_model,
    )
    from models.video_model import VideoModel

__all__ = [
    "ModelOutput",
    "VideoModel",
    "create_model",
    "list_models",
    "make_options",
    "model_module",
    "model_options",
    "options_without_effect",
    "register_model",
]


def __getattr__(name: str) -> Any:
    """Returns one of the package's names, once every network is registered.

    Raises:
        AttributeError: If the package has no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        import_plugin(module.name)
    for home in ("output", "registry", "video_model"):
        globals().update(
            {
                public: value
                for public, value in vars(importlib.import_module(f"{__name__}.{home}")).items()
                if public in __all__
            }
        )
    return globals()[name]
