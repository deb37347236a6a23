"""Networks: tensors in, tensors out.

Importing the package imports every module of it, and with it registers every network.
"""

import importlib
import pkgutil

from models.output import ModelOutput
from models.registry import (
    create_model,
    list_models,
    make_options,
    model_options,
    register_model,
)
from models.video_model import VideoModel

__all__ = [
    "ModelOutput",
    "VideoModel",
    "create_model",
    "list_models",
    "make_options",
    "model_options",
    "register_model",
]

for _module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
    # Fusion holds no network, and brings scikit-learn into every process that trains one.
    if _module.name != f"{__name__}.fusion":
        importlib.import_module(_module.name)
