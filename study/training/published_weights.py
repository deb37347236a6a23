"""State dicts of published video networks, under the names that the networks here have.

Names are mapped one to one by rule. The rules are written after the public code of each network;
none of it, and no published file, is part of this project.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from models.backbones.base import fold_normalisation
from study.data.clips.transforms import FLOW_STD

__all__ = ["PublishedWeights", "read_published"]

PARTS = ("body", "inserted", "head")
# The first convolution, and what takes a shift of its result: a bias, or a norm's running mean.
FIRST = {
    "conv1.weight": "bn1.running_mean",
    "conv1_7x7_s2.weight": "conv1_7x7_s2.bias",
    "conv1.conv.weight": "conv1.bn.running_mean",
    "features.0.0.0.weight": "features.0.0.1.running_mean",
    "stem.0.weight": "stem.1.running_mean",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """Inputs (v − mean) / std, v in 0..1.

    Attributes:
        mean: Of each channel, or one for all.
        std: Of each channel, or one for all.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How one published network names its tensors.

    Attributes:
        title: Whose it is.
        marker: A pattern of a name that only its state dicts have.
        rules: Patterns and what replaces them, one after the other; a name must end up with one of
            `PARTS` in front: ``body`` with the name that ``load_backbone_weights`` takes,
            ``inserted`` with that of a layer inserted into the backbone, ``head`` the classifier.
        rgb: How it normalises frames; None as ``load_backbone_weights`` expects.
        flow: How it normalises flow; None as this project does.
    """

    title: str
    marker: str
    rules: tuple[tuple[str, str], ...]
    rgb: Normalisation | None = None
    flow: Normalisation | None = None

    def renamed(self, name: str) -> str:
        """Returns a tensor's name here, with its part in front."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name


CENTRED = Normalisation(mean=(0.5,), std=(0.5,))  # −1..1
BASE_MODEL = (
    (r"^new_fc\.", "head."),
    (r"^base_model\.fc\.", "head."),
    (r"^base_model\.gsm_(.+)\.bn\.", r"inserted.\1.gated_shift.norm."),
    (r"^base_model\.gsm_(.+)\.conv3D\.", r"inserted.\1.gated_shift.gate."),
    (r"\.conv1\.net\.", ".conv1."),
    (r"^base_model\.", "body."),
)
I3D_BRANCHES = {
    "b0": "one",
    "b1a": "three_a.0",
    "b1b": "three_a.1",
    "b2a": "three_b.0",
    "b2b": "three_b.1",
    "b3b": "pooled.1",
}
FORMATS = (
    Format(
        title="TSN or GSM of BN-Inception (tsn-pytorch, GSM)",
        marker=r"base_model\.conv1_7x7_s2\.weight",
        rules=BASE_MODEL,
        flow=Normalisation(mean=(128 / 255,), std=(1 / 255,)),
    ),
    Format(
        title="TSN or TSM of a ResNet (tsn-pytorch, temporal-shift-module)",
        marker=r"base_model\.conv1\.weight",
        rules=BASE_MODEL,
    ),
    Format(
        title="I3D (pytorch-i3d)",
        marker=r"Conv3d_1a_7x7\.conv3d\.weight",
        rules=(
            (r"^logits\.conv3d\.", "head."),
            (r"^Conv3d_1a_7x7\.", "body.conv1."),
            (r"^Conv3d_2b_1x1\.", "body.conv2a."),
            (r"^Conv3d_2c_3x3\.", "body.conv2b."),
            *(
                (rf"^Mixed_(..)\.{theirs}\.", rf"body.mixed_\1.{ours}.")
                for theirs, ours in I3D_BRANCHES.items()
            ),
            (r"\.conv3d\.", ".conv."),
        ),
        rgb=CENTRED,
        flow=CENTRED,
    ),
    Format(
        title="S3D (kylemin/S3D)",
        marker=r"base\.0\.conv_s\.weight",
        rules=(
            (r"^fc\.0\.", "head."),
            (r"^base\.", "body.features."),
            (r"\.branch0\.0\.", ".branch0."),
            (r"\.conv_s\.", ".0.0."),
            (r"\.bn_s\.", ".0.1."),
            (r"\.conv_t\.", ".1.0."),
            (r"\.bn_t\.", ".1.1."),
            (r"\.conv\.", ".0."),
            (r"\.bn\.", ".1."),
        ),
        rgb=CENTRED,
    ),
    Format(
        title="torchvision's video networks",
        marker=r"stem\.0\.weight|features\.0\.0\.0\.weight",
        rules=(
            (r"^(fc|classifier\.1)\.", "head."),
            (r"^(?!head\.)", "body."),
        ),
        rgb=Normalisation(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989)),
    ),
    Format(
        title="TSN, TSM or SlowOnly (mmaction2)",
        marker=r"(backbone\.)?layer1\.0\.conv1\.conv\.(net\.)?weight",
        rules=(
            (r"^cls_head\.fc_cls\.", "head."),
            (r"^(backbone\.)?(?=conv1\.|layer\d)", "body."),
            (r"\.conv\.net\.", ".conv."),
            (r"\.conv(\d)\.conv\.", r".conv\1."),
            (r"\.conv(\d)\.bn\.", r".bn\1."),
            (r"\.downsample\.conv\.", ".downsample.0."),
            (r"\.downsample\.bn\.", ".downsample.1."),
        ),
        flow=Normalisation(mean=(128 / 255,), std=(128 / 255,)),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """A published network's tensors.

    Attributes:
        format: How it names them.
        names: The file's name of each tensor, by part and name here, as in ``body.conv1.weight``.
        body: The backbone's tensors, as ``VideoModel.load_backbone_weights`` names them.
        inserted: Those of layers inserted into the backbone, by their names in it.
        head: The classifier's, ``weight`` (N, D) and ``bias`` (N,).
    """

    format: Format
    names: Mapping[str, str]
    body: Mapping[str, Tensor]
    inserted: Mapping[str, Tensor]
    head: Mapping[str, Tensor]

    def body_for(self, stream: str) -> dict[str, Tensor]:
        """Returns the body with its input's normalisation made ours, in its first layer.

        That is exact but for the border, where padding has another colour. Kernels of frames that
        a stream of flow starts from are scaled alone.
        """
        body = dict(self.body)
        first = next((name for name in FIRST if name in body), None)
        if first is None:
            return body
        channels = body[first].shape[1]
        its = self.format.rgb if channels == 3 else self.format.flow
        if its is None:
            return body
        of_flow = {} if channels == 3 else {"own_mean": (0.5,) * channels}
        if channels != 3:
            of_flow["own_std"] = (FLOW_STD,) * channels
        body[first], shift = fold_normalisation(
            body[first], mean=_of_all(its.mean, channels), std=_of_all(its.std, channels), **of_flow
        )
        shifted = FIRST[first]
        if shifted in body and (channels != 3 or stream == "spatial"):
            sign = -1 if shifted.endswith("running_mean") else 1
            body[shifted] = body[shifted] + sign * shift
        return body


def read_published(state_dict: Mapping[str, Tensor]) -> PublishedWeights | None:
    """Returns a published video network's weights; None where it is none of the known ones.

    Raises:
        ValueError: If a tensor's name is none of the network's.
    """
    known = (one for one in FORMATS if any(re.fullmatch(one.marker, name) for name in state_dict))
    found = next(known, None)
    if found is None:
        return None
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    names: dict[str, str] = {}
    strange = []
    for name, value in state_dict.items():
        here = found.renamed(name)
        part, _, rest = here.partition(".")
        if part not in parts or rest in parts[part]:
            strange.append(name)
            continue
        names[here] = name
        parts[part][rest] = value.flatten(1) if part == "head" and value.ndim > 2 else value
    if strange:
        raise ValueError(
            f"these look like weights of {found.title}, but hold {len(strange)} tensors that it "
            f"doesn't have: {', '.join(strange[:5])}{' …' if len(strange) > 5 else ''}; give the "
            "state dict as it was published"
        )
    return PublishedWeights(format=found, names=names, **parts)


def _of_all(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values
