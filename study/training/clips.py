"""How a training's clips are taken from its videos."""

from study.data.clips.dataset import ClipSettings
from study.training.hyperparameters import Hyperparameters

__all__ = ["clip_settings"]


def clip_settings(hyperparameters: Hyperparameters, *, views: bool = False) -> ClipSettings:
    """Returns how a training's clips are taken from a video.

    Args:
        hyperparameters: The training's.
        views: As its test scores are made; otherwise as it trains and validates (one clip, one
            centre crop).
    """
    return ClipSettings(
        segments=hyperparameters.test_segments if views else hyperparameters.segments,
        flow_length=hyperparameters.flow_length,
        crop_size=hyperparameters.tested_size if views else hyperparameters.crop_size,
        scales=hyperparameters.scales,
        flip=hyperparameters.flip,
        stride=hyperparameters.frame_stride,
        clips=hyperparameters.test_clips if views else 1,
        crops=hyperparameters.test_crops if views else "centre",
    )
