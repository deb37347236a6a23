"""The networks by name, and what all of them have in common.

A network is a ``VideoModel`` registered beside a frozen dataclass of its options::

    @dataclass(frozen=True, kw_only=True, slots=True)
    class MyOptions:
        hidden: int = 64

        def __post_init__(self) -> None:
            check_types(self)
            check_at_least(self, "hidden", 1)

    @register_model("mine", MyOptions)
    class Mine(VideoModel):
        def __init__(self, options: MyOptions, *, num_classes: int) -> None:
            super().__init__(num_classes=num_classes)
            self.heads = nn.ModuleDict()
            for stream in self.streams:
                with self.own_seed(stream):
                    self.heads[stream] = ...

        def forward(self, rgb=None, flow=None) -> ModelOutput:
            self.check_inputs(rgb, flow)
            ...

Whatever belongs to one stream alone lies in an ``nn.ModuleDict`` under that stream's name.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from models.backbones import Backbone, create_backbone
from models.output import ModelOutput

__all__ = [
    "STREAM_INPUTS",
    "VideoModel",
    "create_model",
    "list_models",
    "make_options",
    "model_options",
    "register_model",
]

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # the latter takes its place over several GPUs

STREAM_INPUTS = {"spatial": "rgb", "temporal": "flow"}
"""The input that each stream sees."""


class VideoModel(nn.Module):
    """Base of all networks: from clips of RGB frames and flow stacks to logits by stream.

    Args:
        num_classes: Number of classes N, two or more.
        streams: The streams that it returns logits for.
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
        image_network: The network of images whose weights ``load_backbone_weights`` takes: the
            first backbone, as ``new_backbone`` sets it; empty where there is none.
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
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(
                f"model {self.model_name!r}: `num_classes` must be an integer of at least 2, "
                f"but got {num_classes!r}."
            )
        self.num_classes = num_classes
        self.streams = streams
        self.inputs = tuple(STREAM_INPUTS[s] for s in streams) if inputs is None else inputs
        self.independent_streams = independent_streams
        self.flow_length = flow_length
        self.min_frames = min_frames
        self.min_size = min_size
        self.partial_bn = partial_bn
        self.image_network = ""
        # One draw whatever the streams are: what is built after it doesn't depend on them.
        self._seed = int(torch.randint(2**31, (), device="cpu"))

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        """Classify B clips.

        Args:
            rgb: Normalised frames, ``(B, T, 3, H, W)``; needed when ``inputs`` names it.
            flow: Normalised flow stacks in the order x1, y1, x2, y2, …, ``(B, T, 2L, H, W)``;
                needed when ``inputs`` names it.

        Raises:
            ValueError: An input is missing, or of a wrong shape or type.
        """
        raise NotImplementedError

    def check_inputs(self, rgb: Tensor | None, flow: Tensor | None) -> dict[str, Tensor]:
        """Check the inputs that the network uses; others are not looked at.

        Returns:
            The used inputs by name.

        Raises:
            ValueError: An input is missing, isn't of floating point, or has a wrong rank, wrong
                channels, too few frames or too few pixels; or the inputs differ in B, T, H or W.
        """
        given = {"rgb": rgb, "flow": flow}
        used: dict[str, Tensor] = {}
        for name in self.inputs:
            x = given[name]
            if x is None:
                needed = " and ".join(f"`{needed}`" for needed in self.inputs)
                raise ValueError(
                    f"model {self.model_name!r} takes {needed}, but `{name}` is missing."
                )
            self._check_shape(name, x)
            used[name] = x
        sizes = [(*x.shape[:2], *x.shape[3:]) for x in used.values()]
        self._require(
            sizes[0] == sizes[-1],
            "takes `rgb` and `flow` of the same (B, T, H, W)",
            f"{sizes[0]} and {sizes[-1]}",
        )
        return used

    def _check_shape(self, name: str, x: Tensor) -> None:
        channels = self.input_channels(name)
        takes = f"takes `{name}` of the shape (B, T, {channels}, H, W)"
        got = f"{tuple(x.shape)}"
        self._require(x.ndim == 5, takes, got)
        why = "" if name == "rgb" else f" (two for each of {self.flow_length} flow fields)"
        self._require(x.shape[2] == channels, takes + why, got)
        self._require(
            x.shape[1] >= self.min_frames, f"{takes} with T at least {self.min_frames}", got
        )
        self._require(
            min(x.shape[3:]) >= self.min_size,
            f"takes `{name}` of at least {self.min_size} × {self.min_size} px",
            f"{x.shape[3]} × {x.shape[4]}",
        )
        self._require(
            x.is_floating_point(), f"takes `{name}` normalised, in floating point", f"{x.dtype}"
        )

    def _require(self, condition: bool, takes: str, got: str) -> None:
        if not condition:
            raise ValueError(f"model {self.model_name!r} {takes}, but got {got}.")

    def input_channels(self, name: str) -> int:
        """Channels of the input ``name``: 3 for ``rgb``, 2L for ``flow``."""
        return {"rgb": 3, "flow": 2 * self.flow_length}[name]

    def new_backbone(self, name: str, stream: str) -> Backbone:
        """A backbone for the stream's input, with fresh weights."""
        channels = self.input_channels(STREAM_INPUTS[stream])
        backbone = create_backbone(name, in_channels=channels)
        self.min_size = max(self.min_size, backbone.min_size)
        self.image_network = self.image_network or name
        return backbone

    def example_inputs(
        self, *, batch_size: int = 1, frames: int | None = None, size: int = 224
    ) -> dict[str, Tensor]:
        """Random inputs for ``forward``, each ``(B, T, C, size, size)``; T is ``min_frames``
        unless given."""
        frames = self.min_frames if frames is None else frames
        return {
            name: torch.randn(batch_size, frames, self.input_channels(name), size, size)
            for name in self.inputs
        }

    def load_backbone_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Start every backbone from an image-classification state dict.

        The keys are torchvision's (or the backbone's own published ones); the first convolution
        of a flow backbone gets the cross-modality start.

        Raises:
            ValueError: The keys or shapes aren't those of the backbone, or there is no backbone.
        """
        backbones = [module for module in self.modules() if isinstance(module, Backbone)]
        if not backbones:
            raise ValueError(f"model {self.model_name!r} has no backbone that weights fit.")
        for backbone in backbones:
            backbone.load_weights(state_dict)

    def stream_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters in disjoint groups: one for each stream, and ``"shared"`` for the rest.

        A parameter belongs to a stream when a module on its path bears the stream's name. Groups
        without parameters are left out.
        """
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            owners = [stream for stream in self.streams if stream in name.split(".")]
            groups.setdefault(owners[0] if len(owners) == 1 else "shared", []).append(parameter)
        return groups

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; with ``partial_bn`` all but the first BatchNorm stay frozen."""
        super().train(mode)
        if self.partial_bn:
            self.freeze_batch_norm()
        return self

    def freeze_batch_norm(self) -> None:
        """Freeze every 2-D BatchNorm but the first of each backbone: statistics and affine."""
        for backbone in self.modules():
            if not isinstance(backbone, Backbone):
                continue
            norms = [layer for layer in backbone.modules() if isinstance(layer, BATCH_NORMS)]
            for norm in norms[1:]:
                norm.eval()
                norm.requires_grad_(False)

    @contextlib.contextmanager
    def own_seed(self, name: str) -> Iterator[None]:
        """Draw what is initialised inside from a random stream of its own, known by ``name``.

        With it a stream starts from the same weights whether it is built alone or beside others.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(zlib.crc32(f"{self._seed}/{name}".encode()))
            yield


_Model = TypeVar("_Model", bound=VideoModel)
_MODELS: dict[str, tuple[type[VideoModel], type]] = {}


def register_model(name: str, options: type) -> Callable[[type[_Model]], type[_Model]]:
    """Class decorator: make the network known as ``name``.

    Args:
        name: The name for ``create_model``.
        options: Frozen, keyword-only dataclass of its options, which checks itself in
            ``__post_init__``. The class is called as ``cls(options, num_classes=N)``.
    """

    def register(cls: type[_Model]) -> type[_Model]:
        if name in _MODELS:
            raise ValueError(f"a model {name!r} is registered already: {_MODELS[name][0]}.")
        cls.model_name = name
        _MODELS[name] = (cls, options)
        return cls

    return register


def list_models() -> list[str]:
    """The names of all registered models, sorted."""
    return sorted(_MODELS)


def model_options(name: str) -> type:
    """The dataclass of the options of model ``name``.

    Raises:
        ValueError: There is no such model.
    """
    return _find(name)[1]


def make_options(name: str, options: Mapping[str, Any]) -> Any:
    """The checked options of model ``name``; what isn't given has its default.

    Lists become tuples where the option is a tuple, so that options can come from JSON.

    Raises:
        ValueError: There is no such model or option, or a value isn't allowed.
    """
    kind = model_options(name)
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"model {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options are {', '.join(known)}."
        )
    hints = get_type_hints(kind)
    values = {
        option: tuple(value) if isinstance(value, list) and _may_be_tuple(hints[option]) else value
        for option, value in options.items()
    }
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {name!r}: {error}") from error


def _may_be_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(get_origin(kind) is tuple for kind in get_args(hint))


def create_model(name: str, *, num_classes: int, **options: Any) -> VideoModel:
    """Build the model ``name`` for ``num_classes`` classes, in training mode.

    Initial weights are drawn from torch's global random state.

    Raises:
        ValueError: There is no such model or option, or a value isn't allowed.
    """
    cls, _ = _find(name)
    build: Callable[..., VideoModel] = cls
    return build(make_options(name, options), num_classes=num_classes).train()


def _find(name: str) -> tuple[type[VideoModel], type]:
    if name not in _MODELS:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(list_models())}.")
    return _MODELS[name]
