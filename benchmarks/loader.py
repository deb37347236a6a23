"""Training samples a second a core: the clip store against JPEG folders and against videos.

    python -m benchmarks.loader [--data DIR] [--videos N] [--samples N] [--quality Q]

A sample is 3 segments, each an RGB frame and a stack of 10 flow fields (20 images), cropped at
several scales, flipped and resized to 224×224, all alike. The loaders read the same frames and the
same flow of real clips, 256 pixels high:

- ours: `study.data.clips.dataset.ClipDataset` on a clip store. It gives bytes; normalising them is
  the training device's work, so a row of its own has it, on the same core.
- ours, only cut: as a training on a GPU loads it, crops padded to the batch's largest. Resizing and
  mirroring are the GPU's work then, and not in this row.
- ours, flow as JPEG: on a store with ``--flow-codec jpeg``; pixels are those of the JPEG folder.
- JPEG folder, OpenCV: the field's classic layout, ``img_*.jpg``, ``flow_x_*.jpg`` and
  ``flow_y_*.jpg``, through what mmaction2 does to it: each file read and decoded by OpenCV,
  cropped, resized, mirrored, stacked; bytes, for it too normalises on the device.
- JPEG folder, PIL: the same folder through PIL, to normalised float tensors.
- decord: RGB from the original video and flow from a video of it (x and y side by side),
  seeking and decoding each time; cropped as ours.

Rates are of one core's processor time, stacked in batches, the best of several rounds in which the
loaders take turns. The limit stands beside them: decoding alone, and decoding and resizing alone,
by the same functions on the same images, with nothing read, chosen or handed on. Ours keeps flow's
bytes as they were computed; a line says what the folder's JPEG loses of them, and another what the
store's files and the folder's take.

A table has ours through loader processes: by wall time, against as many times the rate without
them, which needs an idle machine; and by the processor time of all processes, their start included,
which shows what handing batches over costs on a busy one too; and how long after the loader is
asked for it the first batch comes. The last line is ours against the JPEG folder read by OpenCV: as
a training on a GPU loads it, and as one on a CPU does.

On a core of an AMD EPYC (Zen 4, under other load): 203 samples a second for a GPU and 124 for a
CPU, against 70 of the JPEG folder by OpenCV (2.9× and 1.8×), 90 with flow as JPEG, and 159 of
decoding and resizing alone. What was tried on flow's planes, each 341×256, in microseconds to read
and bytes:

    JPEG 95 by OpenCV                138   3,590    by simplejpeg 124, by torchvision 102
    the same, at half size            66            other pixels
    the same, a stack in one image    83   3,293
    zstd, level 9                     52   5,294    in bands of 64 rows, as a crop could use: 85
    zstd, level 19                    79   4,190    45 ms to write
    LZ4, level 3                      20   8,411    0.4 ms to write
    LZ4, level 9                      18   7,187    5.2 ms to write

Reading a crop's rows alone can't save more than a fifth: their mean height is 0.82 of the frame's.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from benchmarks.real_clips import real_clips
from models.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from study.data.clips.dataset import PREFETCH, ClipDataset, ClipSettings, make_loader
from study.data.clips.decoding import DecodedVideo
from study.data.clips.sampling import segment_positions
from study.data.clips.transforms import Crop, cut, model_inputs, training_crop
from study.data.datasets.catalog import annotate
from study.data.flow.compute import FlowSettings
from study.data.flow.planes import CODECS, unpack_plane
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import prepare
from study.data.store.record import ClipRecord
from study.data.store.settings import StoreSettings, stack_starts

LENGTH = 10
CLIP = ClipSettings(
    segments=3, flow_length=LENGTH, crop_size=224, scales=(1.0, 0.875, 0.75, 0.66), flip=True
)
STACKS = 6
BATCH = 4
ROUNDS = 5
COLOURS = cv2.COLOR_BGR2RGB
FIELD = "JPEG folder, OpenCV"
CPU = torch.device("cpu")


class Alternative(Dataset[dict[str, Any]]):
    """What the alternatives share with ours: the videos, the positions and the crops."""

    def __init__(self, ours: ClipDataset, folder: Path) -> None:
        self.folder = folder
        self.names = [video.name for video in ours.videos]
        records = [ours.store.record(name) for name in self.names]
        self.shapes = [(record.positions, record.height, record.width) for record in records]
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.names)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def draw(self, index: int) -> tuple[list[int], Crop]:
        positions, height, width = self.shapes[index]
        rng = np.random.default_rng((1, 0, self.epoch, index))
        chosen = segment_positions(positions, CLIP.segments, rng=rng).tolist()
        crop = training_crop(
            height, width, size=CLIP.crop_size, scales=CLIP.scales, flip=CLIP.flip, rng=rng
        )
        return chosen, crop


class OpenCVFolders(Alternative):
    """One file an image, OpenCV from the file's bytes to the resized crop, bytes."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        positions, crop = self.draw(index)
        folder = self.folder / "jpeg-files" / self.names[index]
        rgb = [
            cv2.cvtColor(self._image(folder / f"img_{p:05d}.jpg", cv2.IMREAD_COLOR), COLOURS)
            for p in positions
        ]
        flow = [
            self._image(folder / f"flow_{axis}_{p * LENGTH + k:05d}.jpg", cv2.IMREAD_GRAYSCALE)
            for p in positions
            for k in range(LENGTH)
            for axis in "xy"
        ]
        frames = np.stack([self._cropped(image, crop) for image in rgb])
        stacks = np.stack([self._cropped(image, crop) for image in flow])
        if crop.mirrored:
            stacks[0::2] = 255 - stacks[0::2]
        return {
            "rgb": torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))),
            "flow": torch.from_numpy(stacks).unflatten(0, (CLIP.segments, 2 * LENGTH)),
        }

    @staticmethod
    def _image(path: Path, flags: int) -> NDArray[Any]:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
        assert image is not None
        return image

    @staticmethod
    def _cropped(image: NDArray[Any], crop: Crop) -> NDArray[Any]:
        part = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        part = cv2.resize(part, (CLIP.crop_size, CLIP.crop_size), interpolation=cv2.INTER_LINEAR)
        return cv2.flip(part, 1) if crop.mirrored else part


class PILFolders(Alternative):
    """One file an image, PIL from the file to the resized crop, float tensors."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        positions, crop = self.draw(index)
        folder = self.folder / "jpeg-files" / self.names[index]
        rgb = [self._image(folder / f"img_{p:05d}.jpg", "RGB", crop) for p in positions]
        flow = [
            self._image(folder / f"flow_{axis}_{p * LENGTH + k:05d}.jpg", "L", crop, axis)
            for p in positions
            for k in range(LENGTH)
            for axis in "xy"
        ]
        frames = self._tensor(np.stack([np.asarray(image) for image in rgb]).transpose(0, 3, 1, 2))
        stacks = self._tensor(np.stack([np.asarray(image) for image in flow]))
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        return {
            "rgb": frames.sub_(mean[:, None, None]).div_(std[:, None, None]),
            "flow": stacks.unflatten(0, (CLIP.segments, 2 * LENGTH)).sub_(0.5).div_(0.226),
        }

    @staticmethod
    def _image(path: Path, mode: str, crop: Crop, axis: str = "") -> Image.Image:
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        with Image.open(path) as file:
            image = file.convert(mode).crop(box)
        image = image.resize((CLIP.crop_size, CLIP.crop_size), Image.Resampling.BILINEAR)
        if crop.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image = ImageOps.invert(image) if axis == "x" else image
        return image

    @staticmethod
    def _tensor(images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).float().div_(255)


class Videos(Alternative):
    """RGB and flow as video files, opened, sought and decoded for every sample."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        import decord

        positions, crop = self.draw(index)
        _, height, width = self.shapes[index]
        path = self.folder / "videos" / f"{self.names[index]}"
        starts = np.load(path.with_suffix(".npy"))
        video = decord.VideoReader(
            str(path.with_suffix(".avi")), width=width, height=height, num_threads=1
        )
        frames = video.get_batch(starts[positions].tolist()).asnumpy()
        motion = decord.VideoReader(str(path.with_suffix(".flow.mp4")), num_threads=1)
        wanted = [p * LENGTH + k for p in positions for k in range(LENGTH)]
        fields = motion.get_batch(wanted).asnumpy()[..., 0]  # (T·L, H, 2W)
        size = CLIP.crop_size
        rgb = np.empty((CLIP.segments, size, size, 3), np.uint8)
        flow = np.empty((CLIP.segments * LENGTH, 2, size, size), np.uint8)
        for frame, out in zip(frames, rgb, strict=True):
            cut(frame, crop, out)
        for field, out in zip(fields, flow, strict=True):
            cut(field[:height, :width], crop, out[0])
            cut(field[:height, -width:], crop, out[1])
        if crop.mirrored:
            np.subtract(255, flow[:, 0], out=flow[:, 0])
        return {
            "rgb": torch.from_numpy(rgb).permute(0, 3, 1, 2),
            "flow": torch.from_numpy(flow).reshape(CLIP.segments, 2 * LENGTH, size, size),
        }


def lay_out(data: Path, folder: Path, *, videos: int, quality: int) -> dict[str, ClipDataset]:
    """Prepares clip stores of real clips, and writes what they hold in the other two layouts.

    Returns:
        A dataset of each codec of flow, of the same videos.
    """
    chosen = sorted((data / "videos" / "ucf101").glob("*/*.avi"))
    for path in chosen[:: max(1, len(chosen) // videos)][:videos]:
        link = folder / "videos" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    annotations = annotate("folder", videos=folder / "videos", splits=None, group=r"_(g\d+)_")
    split = next(iter(annotations.splits.values()))
    ours = {}
    for codec in CODECS:
        settings = StoreSettings(
            dataset="folder",
            stacks=STACKS,
            flow_length=LENGTH,
            flow=FlowSettings(scales=3, warps=2),
            flow_codec=codec,
            jpeg_quality=quality,
        )
        prepare(annotations, folder / "videos", folder / codec, settings)
        store = ClipStore.open(folder / codec)
        stored = [video for video in (*split.train, *split.test) if video.name in store]
        ours[codec] = ClipDataset(store, stored, clip=CLIP, augment=True)
        assert not ours[codec]._decoded(0).is_kept, "take more videos: these stay in memory"
    store = ours["jpeg"].store
    for video in track(ours["jpeg"].videos, "writing folders", transient=True):
        record = store.record(video.name)
        _write_jpegs(record, folder / "jpeg-files" / video.name)
        path = folder / "videos" / video.name
        np.save(path.with_suffix(".npy"), stack_starts(record.frames, store.settings))
        _write_flow_video(record, path.with_suffix(".flow.mp4"))
    return ours


def _write_jpegs(record: ClipRecord, folder: Path) -> None:
    folder.mkdir(parents=True)
    for position in range(record.positions):
        (folder / f"img_{position:05d}.jpg").write_bytes(record.rgb(position))
        for k, pair in enumerate(record.flow(position, LENGTH)):
            for axis, data in zip("xy", pair, strict=True):
                name = f"flow_{axis}_{position * LENGTH + k:05d}.jpg"
                (folder / name).write_bytes(data)


def _write_flow_video(record: ClipRecord, path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qmin": "2", "qmax": "4"})
        stream.width, stream.height = 2 * record.width, record.height
        stream.pix_fmt = "yuv420p"
        for position in range(record.positions):
            for pair in record.flow(position, LENGTH):
                planes = [unpack_plane(data, record.height, record.width) for data in pair]
                frame = av.VideoFrame.from_ndarray(np.hstack(planes), format="gray")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode(ours: ClipDataset, indices: Sequence[int], *, resize: bool = False) -> None:
    """The least that a loader of the store can take: the samples' images decoded, nothing else.

    Args:
        ours: The store's clips.
        indices: The samples.
        resize: Whether a crop of each is also resized, over and over into the same memory.
    """
    for index in indices:
        clips = ours._choose(index)
        [crop] = clips.crops
        part = (slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width))
        frame, plane = (np.empty((*clips.sides, *c), np.uint8) for c in ((3,), ()))
        for position in clips.positions[0].tolist():
            image = clips.video.rgb(position)
            if resize:
                cv2.resize(image[part], clips.sides, dst=frame)
            for image in clips.video.flow(position):
                if resize:
                    cv2.resize(image[part], clips.sides, dst=plane)


def lost_by_jpeg(ours: dict[str, ClipDataset]) -> float:
    """The mean difference of flow's bytes in the two stores, in grey levels."""
    differences = []
    for video in ours["lz4"].videos:
        exact, lossy = (
            DecodedVideo(data.store.record(video.name), flow_length=LENGTH, kept_bytes=0)
            for data in (ours["lz4"], ours["jpeg"])
        )
        for position in range(exact.positions):
            planes = zip(exact.flow(position), lossy.flow(position), strict=True)
            differences += [np.abs(one.astype(int) - other).mean() for one, other in planes]
    return float(np.mean(differences))


def samples_a_second(
    loaders: dict[str, Callable[[list[int]], object]], datasets: Sequence[Any]
) -> dict[str, float]:
    """Of one core's time, best of the rounds."""
    count = len(datasets[0])
    best = dict.fromkeys(loaders, 0.0)
    for epoch in track(range(ROUNDS), "measuring", transient=True):
        for data in datasets:
            data.set_epoch(epoch)
        for name, load in loaders.items():
            started = time.process_time()
            for first in range(0, count, BATCH):
                load(list(range(first, min(first + BATCH, count))))
            best[name] = max(best[name], count / (time.process_time() - started))
    return best


def through_processes(data: ClipDataset, workers: int, samples: int) -> tuple[float, float, float]:
    """Samples a second through loader processes: of wall time, without the first batches, and of
    all processes' processor time; and the reciprocal of the seconds to the first batch."""
    batches = [
        [(first + k) % len(data) for k in range(BATCH)] for first in range(0, samples, BATCH)
    ]
    arrivals = []
    before, began = _processor_seconds(), time.perf_counter()
    for _ in make_loader(data, batches, device=CPU, workers=workers):
        arrivals.append(time.perf_counter())
    used = _processor_seconds() - before  # the loader is gone, and its processes with it
    first = PREFETCH * workers  # what was made while the processes started
    wall = BATCH * (len(arrivals) - 1 - first) / (arrivals[-1] - arrivals[first])
    return wall, BATCH * len(arrivals) / used, 1 / (arrivals[0] - began)


def _processor_seconds() -> float:
    """Of this process and of those that it started and saw end."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=real_clips(), help="folder of the real clips")
    parser.add_argument("--videos", type=int, default=12, help="clips to take (12)")
    parser.add_argument("--samples", type=int, default=400, help="for the scaling (400)")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs (95)")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        stores = lay_out(given.data, Path(folder), videos=given.videos, quality=given.quality)
        ours, jpeg = stores["lz4"], stores["jpeg"]
        files, pil, videos = (
            alternative(ours, Path(folder)) for alternative in (OpenCVFolders, PILFolders, Videos)
        )
        rates = samples_a_second(
            {
                "ours": ours.batch,
                "ours, only cut": lambda i: ours.batch(i, resized=False),
                "ours + normalising": lambda i: model_inputs(ours.batch(i), CPU),
                "ours, flow as JPEG": jpeg.batch,
                FIELD: lambda i: default_collate([files[k] for k in i]),
                "JPEG folder, PIL": lambda i: default_collate([pil[k] for k in i]),
                "videos, decord": lambda i: default_collate([videos[k] for k in i]),
                "decoding alone": lambda i: decode(ours, i),
                "decoding and resizing alone": lambda i: decode(ours, i, resize=True),
            },
            [ours, jpeg, files, pil, videos],
        )
        lost = lost_by_jpeg(stores)
        sizes = {
            name: sum(file.stat().st_size for file in (Path(folder) / place).rglob("*.*"))
            for name, place in (("lz4", "lz4/shards"), ("jpeg", "jpeg/shards"))
        }
        processes = sorted({0, 1, len(os.sched_getaffinity(0))})
        rounds = [
            [through_processes(ours, workers, given.samples) for workers in processes]
            for _ in track(range(ROUNDS), "loader processes", transient=True)
        ]
    scaling = np.max(rounds, axis=0)  # (processes, 3)
    table = Table(title="T=3, L=10, 224×224, from 256 px frames")
    for column in ("loader", "samples/s a core", "ms a sample", f"against {FIELD}"):
        table.add_column(column, justify="left" if column == "loader" else "right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{1e3 / rate:.2f}", f"{rate / rates[FIELD]:.2f}×")
    console.print(table)
    console.print(
        f"ours runs at {rates['ours'] / rates['decoding and resizing alone']:.0%} of the limit; "
        f"JPEG changes flow's bytes by {lost:.2f} grey levels of 255 in the mean, ours by none; "
        f"the store takes {sizes['lz4'] / sizes['jpeg']:.2f}× the space that it takes with JPEG"
    )
    table = Table(title=f"ours through loader processes, at a load of {os.getloadavg()[0]:.1f}")
    for column in ("loader processes", "samples/s", "of linear", "samples/s a core", "first batch"):
        table.add_column(column, justify="right")
    for workers, (wall, processor, first) in zip(processes, scaling, strict=True):
        linear = wall / (max(1, workers) * scaling[0, 0])
        table.add_row(
            str(workers), f"{wall:.1f}", f"{linear:.0%}", f"{processor:.1f}", f"{1 / first:.2f} s"
        )
    console.print(table)
    cut_alone, resized = (rates[name] / rates[FIELD] for name in ("ours, only cut", "ours"))
    console.print(f"{cut_alone:.1f}× for a GPU, {resized:.1f}× for a CPU")


if __name__ == "__main__":
    main()
