"""Networks: tensors in, tensors out.

Importing the package registers every network; a new one needs a line below.
"""

from models import (  # noqa: F401
    attention_consistency,
    attentional_pooling,
    conv_fusion,
    cstm,
    gsm,
    stilt,
    stin,
    stm,
    trn,
    tsm,
    tsn,
    two_stream,
)
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
