"""Residual networks (He et al., CVPR 2016) from torchvision."""

from torch import Tensor, nn

from models.backbones.base import Backbone
from models.backbones.registry import register_backbone

__all__ = ["ResNet"]


@register_backbone("resnet18", "resnet34", "resnet50", "resnet101")
class ResNet(Backbone):
    """torchvision's ResNet without its pooling and classifier, under torchvision's names.

    Its stages are ``stem`` (first convolution to max-pool, ÷4), ``layer1`` (÷4), ``layer2`` (÷8),
    ``layer3`` (÷16) and ``layer4`` (÷32).
    """

    first_conv = "conv1"
    classifier_prefixes = ("fc.",)
    stages = ("stem", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, name: str, *, in_channels: int = 3) -> None:
        from torchvision.models import resnet

        super().__init__()
        net = getattr(resnet, name)(weights=None)
        self.name = name
        self.in_channels = in_channels
        self.conv1 = net.conv1
        self.bn1 = net.bn1
        self.relu = net.relu
        self.maxpool = net.maxpool
        self.layer1 = net.layer1
        self.layer2 = net.layer2
        self.layer3 = net.layer3
        self.layer4 = net.layer4
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        widths = [net.fc.in_features // 2**i for i in (3, 2, 1, 0)]
        self.stage_channels = dict(zip(self.stages, (64, *widths), strict=True))

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one stage; see `Backbone.forward_stage`."""
        maps: Tensor
        if stage == "stem":
            maps = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        else:
            maps = self.get_submodule(stage)(x)
        return maps
