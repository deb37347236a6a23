"""VGG-M-2048 (Chatfield et al., "Return of the devil in the details", BMVC 2014)."""

from torch import Tensor, nn

from models.backbones.base import Backbone
from models.backbones.registry import register_backbone

__all__ = ["VGGM"]

PUBLISHED_MEAN = (123.68, 116.779, 103.939)  # red, green, blue


@register_backbone("vgg_m_2048")
class VGGM(Backbone):
    """The convolutions of VGG-M, which VGG-M-2048 shares, under ``features.N`` names.

    Five convolutions with local response normalisation after the first two. The stages are each
    convolution's ReLU (``relu1`` … ``relu5``), before normalisation and pooling, and ``pool5``:
    6² cells of a 224² image.

    Its public checkpoints take blue, green, red in 0..255 less a mean, which ``load_weights``
    folds into the first convolution; it has no padding, so that the result is the same.
    """

    first_conv = "features.0"
    classifier_prefixes = ("classifier.",)
    min_size = 48
    stages = ("relu1", "relu2", "relu3", "relu4", "relu5", "pool5")

    def __init__(self, name: str, *, in_channels: int = 3) -> None:
        super().__init__()
        self.name = name
        self.in_channels = in_channels
        self.stage_channels = dict(zip(self.stages, (96, 256, 512, 512, 512, 512), strict=True))
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, 7, stride=2),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            nn.Conv2d(96, 256, 5, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            nn.Conv2d(256, 512, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(512, 512, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(512, 512, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
        )
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.constant_(layer.get_parameter("bias"), 0)
        relus = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]
        ends = [*(i + 1 for i in relus), len(self.features)]
        starts = [0, *ends[:-1]]
        self._ranges = dict(zip(self.stages, map(slice, starts, ends), strict=True))

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one stage; see `Backbone.forward_stage`."""
        for layer in self.features[self._ranges[stage]]:
            x = layer(x)
        return x

    def _adapt_checkpoint(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        self._fold_caffe_images(weights, PUBLISHED_MEAN)
        return weights
