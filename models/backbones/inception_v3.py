"""Inception-v3 (Szegedy et al., CVPR 2016) from torchvision."""

from torch import Tensor, nn

from models.backbones.base import Backbone, fold_normalisation
from models.backbones.registry import register_backbone

__all__ = ["InceptionV3"]

PUBLISHED_MEAN = PUBLISHED_STD = (0.5, 0.5, 0.5)
LAYERS = {
    "stem": (
        "Conv2d_1a_3x3",
        "Conv2d_2a_3x3",
        "Conv2d_2b_3x3",
        "maxpool1",
        "Conv2d_3b_1x1",
        "Conv2d_4a_3x3",
        "maxpool2",
    ),
    "Mixed_5d": ("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    "Mixed_6e": ("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    "Mixed_7c": ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}


@register_backbone("inception_v3")
class InceptionV3(Backbone):
    """torchvision's Inception-v3 without its classifiers, under torchvision's names.

    The stages are ``stem`` and the last block at each resolution, ``Mixed_5d``, ``Mixed_6e`` and
    ``Mixed_7c``: 35², 17² and 8² cells of a 299² image.

    The public weights take images scaled to −1..1, which torchvision's net makes of ImageNet's
    normalisation at its entrance; ``load_weights`` folds that into the first convolution.
    """

    first_conv = "Conv2d_1a_3x3.conv"
    classifier_prefixes = ("fc.", "AuxLogits.")
    min_size = 75
    stages = tuple(LAYERS)

    def __init__(self, name: str, *, in_channels: int = 3) -> None:
        from torchvision.models import inception

        super().__init__()
        net = inception.Inception3(
            aux_logits=False, transform_input=False, init_weights=False, num_classes=1
        )
        self.name = name
        self.in_channels = in_channels
        if in_channels != 3:
            net.Conv2d_1a_3x3.conv = nn.Conv2d(in_channels, 32, 3, stride=2, bias=False)
        for stage_layers in LAYERS.values():
            for layer in stage_layers:
                self.add_module(layer, net.get_submodule(layer))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.stage_channels = {"stem": 192, "Mixed_5d": 288, "Mixed_6e": 768, "Mixed_7c": 2048}

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one stage; see `Backbone.forward_stage`."""
        for layer in LAYERS[stage]:
            x = self.get_submodule(layer)(x)
        return x

    def _adapt_checkpoint(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weight, mean = f"{self.first_conv}.weight", "Conv2d_1a_3x3.bn.running_mean"
        if weight in weights and mean in weights and weights[weight].shape[1] == 3:
            weights[weight], shift = fold_normalisation(
                weights[weight], mean=PUBLISHED_MEAN, std=PUBLISHED_STD
            )
            if self.in_channels == 3:
                # The convolution has neither bias nor padding: the BatchNorm takes the shift.
                weights[mean] = weights[mean] - shift
        return weights
