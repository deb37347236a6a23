"""Rows of pictures of a stored video: its frames, its flow, and where trained networks look."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import VideoModel
from models.maps import clip_maps, over_clip
from models.video_model import STREAM_INPUTS
from study.data.clips.dataset import ClipDataset
from study.data.clips.decoding import DecodedVideo
from study.data.clips.transforms import model_inputs
from study.data.datasets.annotations import Video
from study.data.store.clip_store import ClipStore
from study.data.store.preview import colour_stored_flow
from study.networks import Network, ready_to_score
from study.prediction import TrainedArm
from study.results.gallery import Strip
from study.training.clips import clip_settings

__all__ = ["Looks", "draw_video"]

FRAMES = 4  # of a row
HEIGHT = 120  # of a picture, in pixels
GAP = 4
QUALITY = 80  # of JPEG
STRONGEST = 0.65  # how much of a picture the colour of a map's largest value hides
DIMMED = 0.6  # of a picture's brightness that is left under a map
NAMES = {"rgb": "RGB", "flow": "flow"}

Picture = NDArray[np.uint8]


def draw_video(store: ClipStore, name: str) -> list[Strip]:
    """Draws a stored video: a row of its frames, and one of the flow there.

    Args:
        store: The clip store.
        name: A stored video.

    Raises:
        KeyError: If the store has no such video.
    """
    video = DecodedVideo(store.record(name), flow_length=1, kept_bytes=0)
    positions = _spread(video.positions)
    frames = [next(video.decoded("rgb", position)) for position in positions]
    stored = [np.stack(list(video.decoded("flow", position))) for position in positions]
    flow, speed = colour_stored_flow(stored, store.settings.bound)
    return [
        _strip("Frames", frames),
        _strip(f"Flow: the hue is the direction, full colour {speed:.1f} px a frame", flow),
    ]


class Looks:
    """Draws where arms' networks look in a video; what several arms share is drawn once.

    Args:
        store: The clip store.
        arms: The arms, by what to call them.
        device: ``cpu`` or a CUDA device.
    """

    def __init__(self, store: ClipStore, arms: Mapping[str, TrainedArm], *, device: str) -> None:
        self._store = store
        self._device = device
        self._nets: dict[tuple[str, tuple[str, ...]], tuple[Network, VideoModel, list[str]]] = {}
        for name, arm in arms.items():
            for network, streams in arm.distinct:
                key = network.training_id, streams
                if key not in self._nets:
                    self._nets[key] = network, ready_to_score(network.build(), device), []
                self._nets[key][2].append(name)

    def draw(self, video: Video, classes: Mapping[str, int]) -> Iterator[Strip]:
        """Yields a row for each map of each network, over the frames or the flow that it sees.

        What it sees is one clip, the centre crop of the first that scores a test video.

        Args:
            video: A video that the store has.
            classes: By what an arm is called, the class whose evidence is looked for.
        """
        for (_, streams), (network, net, arms) in self._nets.items():
            clip = _Clip(self._store, video, network, net.inputs)
            inputs = model_inputs(clip.batch, torch.device(self._device))
            by_class: dict[int, list[str]] = {}
            for arm in arms:
                by_class.setdefault(classes[arm], []).append(arm)
            found = {label: clip_maps(net, inputs, label) for label in by_class}
            attention = next(iter(found.values())).attention  # the same for every class
            for stream in streams:
                kind = STREAM_INPUTS[stream] if STREAM_INPUTS[stream] in inputs else "rgb"
                for label, of in by_class.items():
                    what = f"Grad-CAM of {network.classes[label]}"
                    maps = found[label].grad_cam[stream]
                    yield clip.strip(kind, maps, f"{', '.join(of)}, {NAMES[kind]}: {what}")
                if stream in attention:
                    weights = attention[stream]
                    what = f"attention{clip.shares(weights)}"
                    caption = f"{', '.join(arms)}, {NAMES[kind]}: {what}"
                    yield clip.strip(kind, weights / weights.max(), caption)


class _Clip:
    """The clip of a video that a network sees, and its pictures.

    Args:
        store: The clip store.
        video: The video.
        network: The network.
        inputs: What it takes: ``rgb``, ``flow`` or both.
    """

    def __init__(
        self, store: ClipStore, video: Video, network: Network, inputs: Sequence[str]
    ) -> None:
        clip = clip_settings(network.hyperparameters, views=True)
        clip = replace(clip, clips=1, crops="centre")
        data = ClipDataset(store, [video], inputs=inputs, clip=clip, augment=False)
        self.batch = data.batch([0])
        self._frames = clip.segments
        self._shown = _spread(clip.segments)
        self._pictures: dict[str, list[Picture]] = {}
        if "rgb" in inputs:
            frames = self.batch["rgb"][0, self._shown].movedim(1, -1)
            self._pictures["rgb"] = list(frames.numpy())
        if "flow" in inputs:
            first = self.batch["flow"][0, self._shown, :2].numpy()  # of each stack
            self._pictures["flow"], _ = colour_stored_flow(list(first), store.settings.bound)

    def strip(self, kind: str, maps: Tensor, caption: str) -> Strip:
        """Returns maps (t, h, w) in 0..1 drawn over frames or flow."""
        pictures = self._pictures[kind]
        height, width = pictures[0].shape[:2]
        heat = over_clip(maps.cpu(), self._frames, (height, width))[self._shown].numpy()
        return _strip(caption, [_heated(*pair) for pair in zip(pictures, heat, strict=True)])

    def shares(self, attention: Tensor) -> str:
        """Returns how much of the attention (t, h, w) each frame shown has, where t is T."""
        if len(attention) != self._frames:
            return ""
        shares = attention.sum(dim=(1, 2))[self._shown].tolist()
        return f" ({', '.join(f'{100 * share:.0f} %' for share in shares)} on these frames)"


def _spread(count: int) -> list[int]:
    """Returns the centres of at most four equal parts of so many frames."""
    shown = min(count, FRAMES)
    return [(2 * i + 1) * count // (2 * shown) for i in range(shown)]


def _heated(picture: Picture, heat: NDArray[np.floating[Any]]) -> Picture:
    """Returns a picture (H, W, 3) under the colours of a map (H, W) in 0..1."""
    colours = 255 * mpl.colormaps["inferno"](heat)[..., :3]
    cover = STRONGEST * heat[..., None]
    blended: Picture = np.rint((1 - cover) * DIMMED * picture + cover * colours).astype(np.uint8)
    return blended


def _strip(caption: str, pictures: Sequence[Picture]) -> Strip:
    height, width = pictures[0].shape[:2]
    size = (round(HEIGHT * width / height), HEIGHT)
    row = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    gap = np.full((HEIGHT, GAP, 3), 128, np.uint8)
    joined = np.concatenate([part for picture in row for part in (gap, picture)][1:], axis=1)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(joined, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    return Strip(caption=caption, jpeg=jpeg.tobytes(), width=joined.shape[1], height=HEIGHT)
