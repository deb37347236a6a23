"""Networks: tensors in, tensors out.

Importing the package registers every network; a new one needs a line below.
"""

from models import attention_consistency, conv_fusion, stilt, stin  # noqa: F401
from models.output import ModelOutput
from models.registry import (
    VideoModel,
    create_model,
    list_models,
    make_options,
    model_options,
    register_model,
)

__all__ = [
    "ModelOutput",
    "VideoModel",
    "create_model",
    "list_models",
    "make_options",
    "model_options",
    "register_model",
]
