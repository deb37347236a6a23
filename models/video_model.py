"""What all networks have in common: inputs, streams, weights to start from, seeds."""

import contextlib
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from models.backbones import Backbone, create_backbone
from models.checks import check_count
from models.output import ModelOutput
from models.randomness import StreamRandomness

__all__ = ["STREAM_INPUTS", "VideoModel"]

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # the latter replaces it on several GPUs

_Module = TypeVar("_Module", bound=nn.Module)

STREAM_INPUTS = {"spatial": "rgb", "temporal": "flow"}
"""The input that each stream sees."""


class VideoModel(nn.Module):
    """Base of all networks: from clips of RGB frames and flow stacks to logits by stream.

    Args:
        num_classes: Number of classes N, two or more.
        streams: The streams that it returns logits of.
        inputs: The inputs that ``forward`` needs, out of ``"rgb"`` and ``"flow"``; None for those
            of the streams.
        independent_streams: True when no stream's logits or gradients depend on another's input
            or parameters, so that each stream trains as it would alone.
        flow_length: Flow fields L in a stack; the input ``flow`` has 2L channels.
        min_frames: Fewest frames T of a clip that the network can work on.
        min_size: Smallest height and width in pixels; ``new_backbone`` raises it.
        partial_bn: Freeze the statistics and the affine parameters of every 2-D BatchNorm of
            each backbone but the first (Temporal Segment Networks, §4).

    Attributes:
        num_classes, streams, inputs, independent_streams, flow_length, min_frames, min_size,
            partial_bn: As given.
        model_name: The name that it is registered under.
        imagenet_network: torchvision's name of the network whose ImageNet weights
            ``load_backbone_weights`` takes: the first backbone, as ``new_backbone`` sets it, even
            one that torchvision doesn't have; empty where no weights fit.
        imagenet_networks: That of a stream by its name, where ``new_backbone`` made the stream one
            of its own.
        kinetics_network: torchvision's name of the same network, whose Kinetics-400 weights
            ``load_backbone_weights`` takes; empty where torchvision has none.

    Raises:
        ValueError: If ``num_classes`` is no whole number of at least 2.
    """

    model_name: str = ""

    def __init__(
        self,
        *,
        num_classes: int,
        streams: tuple[str, ...] = ("spatial", "temporal"),
        inputs: tuple[str, ...] | None = None,
        independent_streams: bool = False,
        flow_length: int = 10,
        min_frames: int = 1,
        min_size: int = 1,
        partial_bn: bool = False,
    ) -> None:
        super().__init__()
        check_count(f"model {self.model_name!r}: num_classes", num_classes, least=2)
        self.num_classes = num_classes
        self.streams = streams
        self.inputs = tuple(STREAM_INPUTS[s] for s in streams) if inputs is None else inputs
        self.independent_streams = independent_streams
        self.flow_length = flow_length
        self.min_frames = min_frames
        self.min_size = min_size
        self.partial_bn = partial_bn
        self.imagenet_network = ""
        self.imagenet_networks: dict[str, str] = {}
        self.kinetics_network = ""
        self._randomness: StreamRandomness | None = None
        # One draw for any streams, so that what is built next doesn't depend on them.
        self._seed = int(torch.randint(2**31, (), device="cpu"))

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        """Classifies B clips.

        Args:
            rgb: Normalised frames, ``(B, T, 3, H, W)``; needed when ``inputs`` names it.
            flow: Normalised flow stacks in the order x1, y1, x2, y2, …, ``(B, T, 2L, H, W)``;
                needed when ``inputs`` names it.

        Raises:
            ValueError: If an input is missing, or of a wrong shape or type.
        """
        raise NotImplementedError

    def check_inputs(self, rgb: Tensor | None, flow: Tensor | None) -> dict[str, Tensor]:
        """Checks the inputs that the network uses and ignores others.

        Returns:
            The used inputs by name.

        Raises:
            ValueError: If an input is missing, isn't of floating point, or has a wrong rank,
                wrong channels, too few frames or too few pixels; or if the inputs differ in B, T,
                H or W.
        """
        given = {"rgb": rgb, "flow": flow}
        used: dict[str, Tensor] = {}
        for name in self.inputs:
            x = given[name]
            if x is None:
                raise ValueError(
                    f"model {self.model_name!r} takes {' and '.join(self.inputs)}, but {name} is "
                    "missing"
                )
            self._check_shape(name, x)
            used[name] = x
        sizes = [(*x.shape[:2], *x.shape[3:]) for x in used.values()]
        self._require(
            sizes[0] == sizes[-1],
            "takes rgb and flow of the same (B, T, H, W)",
            f"{sizes[0]} and {sizes[-1]}",
        )
        return used

    def _check_shape(self, name: str, x: Tensor) -> None:
        channels = self.input_channels(name)
        takes = f"takes {name} of the shape (B, T, {channels}, H, W)"
        got = f"{tuple(x.shape)}"
        self._require(x.ndim == 5, takes, got)
        why = "" if name == "rgb" else f" (two for each of {self.flow_length} flow fields)"
        self._require(x.shape[2] == channels, takes + why, got)
        self._require(
            x.shape[1] >= self.min_frames, f"{takes} with T at least {self.min_frames}", got
        )
        self._require(
            min(x.shape[3:]) >= self.min_size,
            f"takes {name} of at least {self.min_size} × {self.min_size} px",
            f"{x.shape[3]} × {x.shape[4]}",
        )
        self._require(
            x.is_floating_point(), f"takes {name} normalised, in floating point", f"{x.dtype}"
        )

    def _require(self, condition: bool, takes: str, got: str) -> None:
        if not condition:
            raise ValueError(f"model {self.model_name!r} {takes}, got {got}")

    def input_channels(self, name: str) -> int:
        """Returns the channels of an input: 3 for ``rgb``, 2L for ``flow``."""
        return {"rgb": 3, "flow": 2 * self.flow_length}[name]

    def new_backbone(self, name: str, stream: str) -> Backbone:
        """Builds a backbone for the stream's input, with fresh weights."""
        channels = self.input_channels(STREAM_INPUTS[stream])
        backbone = create_backbone(name, in_channels=channels)
        self.min_size = max(self.min_size, backbone.min_size)
        self.imagenet_network = self.imagenet_network or name
        self.imagenet_networks[stream] = name
        return backbone

    def example_inputs(
        self, *, batch_size: int = 1, frames: int | None = None, size: int = 224
    ) -> dict[str, Tensor]:
        """Returns random inputs for ``forward``, ``(B, T, C, size, size)``, by name.

        T is ``min_frames`` unless given.
        """
        frames = self.min_frames if frames is None else frames
        return {
            name: torch.randn(batch_size, frames, self.input_channels(name), size, size)
            for name in self.inputs
        }

    def load_backbone_weights(
        self, state_dict: Mapping[str, Tensor], streams: Collection[str] | None = None
    ) -> set[str]:
        """Starts backbones from an image classifier's state dict.

        The keys are torchvision's (or the backbone's own published ones); the first convolution
        of a flow backbone gets the cross-modality start.

        Args:
            state_dict: Tensors by key.
            streams: The streams whose backbones start from it; None for all.

        Returns:
            The keys of the tensors that are used.

        Raises:
            ValueError: If the keys or shapes aren't those of the backbone, or there is no
                backbone.
        """
        backbones = self.modules_of(Backbone, streams)
        if not backbones:
            raise ValueError(f"model {self.model_name!r} has no backbone that weights fit")
        return set().union(*(backbone.load_weights(state_dict) for backbone in backbones))

    def modules_of(
        self, kind: type[_Module], streams: Collection[str] | None = None
    ) -> list[_Module]:
        """Returns the modules of a kind but those of other streams alone; None for all streams."""
        others = set() if streams is None else STREAM_INPUTS.keys() - set(streams)
        return [
            module
            for name, module in self.named_modules()
            if isinstance(module, kind) and not others & set(name.split("."))
        ]

    @property
    def starting_streams(self) -> tuple[str, ...]:
        """The streams that have parameters of their own, which may start from weights."""
        parts = {part for name, _ in self.named_parameters() for part in name.split(".")}
        return tuple(stream for stream in STREAM_INPUTS if stream in parts) or self.streams

    def stream_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Returns each parameter once, by stream; ``"shared"`` has those of no single stream.

        A parameter belongs to a stream when a module on its path bears the stream's name. Names
        without parameters are left out.
        """
        parameters: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            owners = [stream for stream in self.streams if stream in name.split(".")]
            parameters.setdefault(owners[0] if len(owners) == 1 else "shared", []).append(parameter)
        return parameters

    def stream_modules(self) -> dict[str, list[nn.Module]]:
        """Returns the outermost modules that bear a stream's name, by stream."""
        modules: dict[str, list[nn.Module]] = {}
        for name, module in self.named_modules():
            *above, last = name.split(".")
            if last in self.streams and not set(above) & set(self.streams):
                modules.setdefault(last, []).append(module)
        return modules

    def seed_forward(self, seed: int) -> None:
        """Seeds what the next forward passes draw at random while training, such as dropout masks.

        Each stream's modules draw from a sequence of their own, so that an independent stream
        trains alone as it does with others. That holds while an outermost module that bears the
        stream's name is called; what is called of its parts alone draws from the common sequence.

        Args:
            seed: Of all sequences, in [0, 2**32).
        """
        if self._randomness is None:
            self._randomness = StreamRandomness(self.stream_modules())
        self._randomness.seed(seed, next(self.parameters()).device)

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode; with ``partial_bn`` all but the first BatchNorm stay frozen."""
        super().train(mode)
        if self.partial_bn:
            self._freeze_batch_norms()
        return self

    def _freeze_batch_norms(self) -> None:
        for backbone in self.modules():
            if not isinstance(backbone, Backbone):
                continue
            norms = [layer for layer in backbone.modules() if isinstance(layer, BATCH_NORMS)]
            for norm in norms[1:]:
                norm.eval()
                norm.requires_grad_(False)

    @contextlib.contextmanager
    def own_seed(self, name: str) -> Iterator[None]:
        """Draws what is initialised inside from a random sequence of its own, known by ``name``.

        With it a stream starts from the same weights whether it is built alone or with others.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(zlib.crc32(f"{self._seed}/{name}".encode()))
            yield
