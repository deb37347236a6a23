"""The backbones by name."""

from collections.abc import Callable

from models.backbones.base import Backbone
from models.backbones.bn_inception import BNInception
from models.backbones.inception_v3 import InceptionV3
from models.backbones.resnet import ResNet
from models.backbones.small import Small
from models.backbones.vgg import VGG
from models.backbones.vgg_m import VGGM

__all__ = ["create_backbone", "list_backbones"]

_BACKBONES: dict[str, Callable[..., Backbone]] = {
    "small": Small,
    "resnet18": ResNet,
    "resnet34": ResNet,
    "resnet50": ResNet,
    "resnet101": ResNet,
    "vgg16": VGG,
    "vgg19": VGG,
    "vgg_m_2048": VGGM,
    "bn_inception": BNInception,
    "inception_v3": InceptionV3,
}


def list_backbones() -> list[str]:
    """The names of all backbones."""
    return list(_BACKBONES)


def create_backbone(name: str, *, in_channels: int = 3) -> Backbone:
    """Build a backbone with fresh weights.

    Args:
        name: One of ``list_backbones()``.
        in_channels: 3 for RGB, 2L for a stack of L flow fields.

    Raises:
        ValueError: There is no such backbone, or ``in_channels`` is below 1.
    """
    if name not in _BACKBONES:
        raise ValueError(f"there is no backbone {name!r}; there are {', '.join(_BACKBONES)}.")
    if in_channels < 1:
        raise ValueError(f"`in_channels` must be at least 1, but got {in_channels}.")
    backbone = _BACKBONES[name](name, in_channels=in_channels)
    backbone.published_keys = frozenset(backbone.state_dict())
    return backbone
