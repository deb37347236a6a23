"""Networks: tensors in, tensors out.

Importing the package registers every network; a new one needs a line below.
"""

from models import (  # noqa: F401
    artnet,
    attention_consistency,
    attentional_pooling,
    c3d,
    conv_fusion,
    cstm,
    gsm,
    i3d,
    r2plus1d,
    s3d,
    spatiotemporal_multiplier,
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
