"""What every backbone offers, and how pretrained weights enter it."""

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["Backbone", "cross_modality_start", "fold_normalisation"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A feature extractor that runs in named stages.

    A subclass builds its layers under the names that its public checkpoints use, sets the
    attributes below and runs one stage at a time in ``forward_stage``.

    Attributes:
        name: The name for ``create_backbone``.
        in_channels: Channels of the images: 3, or 2L for a stack of L flow fields.
        stages: Names of the stages in order.
        stage_channels: Stage → channels of its feature map.
        num_features: Channels D of the last stage.
        min_size: Smallest height and width in pixels.
        first_conv: Name of the first convolution, e.g. ``"conv1"``.
        classifier_prefixes: Beginnings of the keys of a checkpoint that belong to its image
            classifier, which a backbone has no use for.
        published_keys: The keys that a checkpoint must have; layers that a network inserts later
            aren't among them.
    """

    name: str
    in_channels: int
    stages: tuple[str, ...]
    stage_channels: dict[str, int]
    min_size: int = 1
    first_conv: str
    classifier_prefixes: tuple[str, ...] = ()
    published_keys: frozenset[str] = frozenset()

    @property
    def num_features(self) -> int:
        """Channels D of the last stage."""
        return self.stage_channels[self.stages[-1]]

    def forward_stage(self, stage: str, x: Tensor) -> Tensor:
        """Runs one stage on the output of the stage before it (the first: on the image)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(N, C, H, W)`` to the feature map of the last stage, ``(N, D, h, w)``.

        Raises:
            ValueError: If the rank or channels are wrong, or the image is too small.
        """
        self.check_image(x)
        for stage in self.stages:
            x = self.forward_stage(stage, x)
        return x

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images ``(N, C, H, W)`` to the maps ``(N, C_s, h_s, w_s)`` of every stage s.

        Raises:
            ValueError: If the rank or channels are wrong, or the image is too small.
        """
        self.check_image(x)
        maps = {}
        for stage in self.stages:
            maps[stage] = x = self.forward_stage(stage, x)
        return maps

    def check_image(self, x: Tensor) -> None:
        """Checks that ``x`` is what the first stage takes.

        Raises:
            ValueError: If the rank or channels are wrong, or the image is too small.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"backbone {self.name!r} takes images of the shape (N, {self.in_channels}, H, W), "
                f"got {tuple(x.shape)}"
            )
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"backbone {self.name!r} takes images of at least {self.min_size} × "
                f"{self.min_size} px, got {x.shape[2]} × {x.shape[3]}"
            )

    def load_weights(self, state_dict: Mapping[str, Tensor]) -> set[str]:
        """Loads an image classifier's weights; all but its classifier must fit.

        The first convolution takes its 3 input channels as they are when the backbone has 3, and
        the cross-modality start otherwise.

        Returns:
            The keys of the tensors that are used.

        Raises:
            ValueError: If keys are missing or unknown, or a shape differs.
        """
        given = {
            key: value
            for key, value in state_dict.items()
            if not key.startswith(self.classifier_prefixes or ("\0",))
        }
        weights = self._adapt_checkpoint(dict(given))
        self._check_keys(weights)
        first = f"{self.first_conv}.weight"
        if self.in_channels != 3 and weights[first].ndim == 4 and weights[first].shape[1] == 3:
            weights[first] = cross_modality_start(weights[first], self.in_channels)
        self._check_shapes(weights)
        self.load_state_dict(weights, strict=False)
        return set(given)

    def _adapt_checkpoint(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Brings a published checkpoint to this backbone's keys and input convention."""
        return weights

    def _fold_caffe_images(self, weights: dict[str, Tensor], mean: tuple[float, ...]) -> None:
        """Makes Caffe's weights take images in ImageNet's normalisation.

        They were trained on blue, green, red in 0..255 less a mean.

        Args:
            weights: The checkpoint, whose first convolution is changed.
            mean: Of red, green and blue in 0..255.
        """
        weight, bias = f"{self.first_conv}.weight", f"{self.first_conv}.bias"
        if weight in weights and bias in weights and weights[weight].shape[1] == 3:
            weights[weight], shift = fold_normalisation(
                weights[weight].flip(1), mean=tuple(m / 255 for m in mean), std=(1 / 255,) * 3
            )
            if self.in_channels == 3:
                weights[bias] = weights[bias] + shift

    def _check_keys(self, weights: Mapping[str, Tensor]) -> None:
        # Checkpoints older than PyTorch 0.4.1 count no batches.
        missing = [
            key
            for key in sorted(self.published_keys - weights.keys())
            if not key.endswith("num_batches_tracked")
        ]
        unknown = sorted(weights.keys() - self.published_keys)
        if missing or unknown:
            raise ValueError(
                f"the weights don't fit backbone {self.name!r}: {_listed('missing', missing)}, "
                f"{_listed('unknown', unknown)}; give a state dict of the same network"
            )

    def _check_shapes(self, weights: Mapping[str, Tensor]) -> None:
        own = self.state_dict()
        wrong = [
            f"{key} is {tuple(value.shape)} and should be {tuple(own[key].shape)}"
            for key, value in weights.items()
            if value.shape != own[key].shape
        ]
        if wrong:
            raise ValueError(
                f"the weights don't fit backbone {self.name!r} with {self.in_channels} input "
                f"channels: {'; '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}; give weights "
                "of the same network and input (flow stacks of L fields have 2L channels: set "
                "flow_length to L)"
            )


def cross_modality_start(weight: Tensor, in_channels: int) -> Tensor:
    """Turns an RGB convolution's weight into one for ``in_channels`` channels.

    The weight is averaged over its input channels and repeated (Temporal Segment Networks, §4).

    Args:
        weight: ``(D, 3, k, k)``.
        in_channels: Channels of the new input, e.g. 2L for a flow stack.

    Returns:
        ``(D, in_channels, k, k)``.
    """
    mean = weight.float().mean(dim=1, keepdim=True).to(weight.dtype)  # (D, 1, k, k)
    return mean.repeat(1, in_channels, *[1] * (weight.ndim - 2))


def fold_normalisation(
    weight: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    own_mean: tuple[float, ...] = IMAGENET_MEAN,
    own_std: tuple[float, ...] = IMAGENET_STD,
) -> tuple[Tensor, Tensor]:
    """Makes a first convolution take inputs in our normalisation instead of its own.

    Args:
        weight: ``(D, C, …)`` for inputs (v − mean) / std, v in 0..1, such as images, red first.
        mean: Of each of the C channels.
        std: Of each channel.
        own_mean: The mean in our normalisation; ImageNet's for images.
        own_std: The deviation in ours.

    Returns:
        The weight for inputs (v − own_mean) / own_std, and the ``(D,)`` that must be added to its
        result.
    """

    def channels(values: list[float]) -> Tensor:
        return weight.new_tensor(values).reshape(1, -1, *[1] * (weight.ndim - 2))

    scale = channels([own / its for own, its in zip(own_std, std, strict=True)])
    offset = channels([(own - its) / s for own, its, s in zip(own_mean, mean, std, strict=True)])
    return weight * scale, (weight * offset).sum(dim=tuple(range(1, weight.ndim)))


def _listed(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (" …" if len(keys) > 5 else "")
    return f"{len(keys)} keys {what}" + (f" ({shown})" if keys else "")
