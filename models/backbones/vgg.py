"""Very deep convolutional networks (Simonyan and Zisserman, ICLR 2015) from torchvision."""

from torch import Tensor, nn

from models.backbones.base import Backbone
from models.backbones.registry import register_backbone

__all__ = ["VGG"]

CONFIGURATIONS = {"vgg16": "D", "vgg19": "E"}


@register_backbone(*CONFIGURATIONS)
class VGG(Backbone):
    """torchvision's VGG-16 or VGG-19 up to the last pooling, under torchvision's names.

    Its stages are the last ReLU of each block, before the block's pooling (``relu1_2``,
    ``relu2_2``, ``relu3_3``, … at 1, 1/2, 1/4, 1/8 and 1/16 of the image), and ``pool5`` (÷32).
    """

    first_conv = "features.0"
    classifier_prefixes = ("classifier.",)
    min_size = 32

    def __init__(self, name: str, *, in_channels: int = 3) -> None:
        from torchvision.models import vgg

        super().__init__()
        self.name = name
        self.in_channels = in_channels
        # Only the features: the whole net would first draw 120 million classifier weights.
        self.features = vgg.make_layers(vgg.cfgs[CONFIGURATIONS[name]])
        if in_channels != 3:
            self.features[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.constant_(layer.get_parameter("bias"), 0)
        self._ranges, self.stage_channels = _find_stages(self.features)
        self.stages = tuple(self._ranges)

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one stage; see `Backbone.forward_stage`."""
        for layer in self.features[self._ranges[stage]]:
            x = layer(x)
        return x


def _find_stages(features: nn.Sequential) -> tuple[dict[str, slice], dict[str, int]]:
    """Cuts the layers before each pooling, and after the last."""
    ranges: dict[str, slice] = {}
    channels: dict[str, int] = {}
    start = convolutions = width = 0
    for end, layer in enumerate(features):
        if isinstance(layer, nn.Conv2d):
            convolutions, width = convolutions + 1, layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            stage = f"relu{len(ranges) + 1}_{convolutions}"
            ranges[stage], channels[stage] = slice(start, end), width
            start, convolutions = end, 0
    ranges["pool5"], channels["pool5"] = slice(start, len(features)), width
    return ranges, channels
