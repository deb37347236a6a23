"""A trained, fused arm of a study, and what it says of videos that no dataset lists."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import VideoModel
from models.fusion import FUSIONS, Fitted
from search_spaces.space import ENSEMBLE
from study.data.clips.dataset import ClipDataset, ClipSettings
from study.data.clips.transforms import test_crops
from study.data.datasets.annotations import Annotations, Split, Video
from study.data.flow.compute import FlowSettings
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import Progress, prepare
from study.data.store.settings import StoreSettings
from study.networks import Network, read_network, ready_to_score
from study.results.protocols import select_protocols
from study.results.rows import parts_fitted_elsewhere, scores_of_line
from study.results.store import ResultStore
from study.scores import Scores
from study.training.clips import clip_settings
from study.training.evaluation import score

__all__ = [
    "NetworkNotKeptError",
    "PreparedVideos",
    "TrainedArm",
    "find_arm",
    "mirrored_views",
    "prepared",
]

VIDEOS_AT_ONCE = 16  # that are scored before progress is reported
GPU_FLOW = "tvl1-gpu"
UNSEEN_FLOW = FlowSettings(scales=1, warps=1, iterations=1)


class NetworkNotKeptError(ValueError):
    """A trained network that the results don't hold."""


@dataclass(frozen=True, kw_only=True)
class PreparedVideos:
    """Videos that were decoded, with their flow, as those that a network was trained on.

    Attributes:
        store: Their clip store.
        videos: Those that could be used, in the order given.
        paths: For each, its path as given.
        skipped: For each that couldn't be used, the reason, by its path as given.
    """

    store: ClipStore
    videos: tuple[Video, ...]
    paths: tuple[str, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedArm:
    """One arm's trained networks of a split and seed, with their fusion fitted.

    Attributes:
        study: The study's name.
        arm: The arm's name.
        row: Its line in view ``rows`` for the test part.
        networks: By each stream that the fusion reads, the network that scores it; one object
            where one network scores both.
        fitted: The fusion, fitted on the stored scores as it was for the row.
    """

    study: str
    arm: str
    row: Mapping[str, Any]
    networks: Mapping[str, Network]
    fitted: Fitted

    @property
    def network(self) -> Network:
        """The network of the first stream; classes and store are those of all."""
        return next(iter(self.networks.values()))

    @cached_property
    def distinct(self) -> tuple[tuple[Network, tuple[str, ...]], ...]:
        """Its networks, each once, with the streams that are read of it."""
        read: dict[int, tuple[Network, list[str]]] = {}
        for stream, network in self.networks.items():
            read.setdefault(id(network), (network, []))[1].append(stream)
        return tuple((network, tuple(streams)) for network, streams in read.values())

    def score(
        self,
        store: ClipStore,
        videos: Sequence[Video],
        *,
        device: str = "cpu",
        progress: Callable[[int], None] | None = None,
    ) -> Scores:
        """Scores videos in the views in which the study's test videos were scored.

        Args:
            store: The clip store that has the videos.
            videos: The videos.
            device: ``cpu`` or a CUDA device.
            progress: Receives how many of the videos are scored.
        """
        nets = [
            (ready_to_score(network.build(), device), network, streams)
            for network, streams in self.distinct
        ]
        pieces: list[Scores] = []
        for first in range(0, len(videos), VIDEOS_AT_ONCE):
            some = videos[first : first + VIDEOS_AT_ONCE]
            scored = [
                _only(_score(net, network, store, some, device), streams)
                for net, network, streams in nets
            ]
            pieces.append(_merged(scored))
            if progress is not None:
                progress(first + len(some))
        return _joined(pieces)

    def fuse(self, scores: Scores) -> NDArray[np.floating[Any]]:
        """Returns the fused scores (V, N); the class with the highest is the prediction."""
        return self.fitted.fuse(scores)

    def clips(self, store: ClipStore, videos: Sequence[Video]) -> dict[str, Tensor]:
        """Returns the clips that the networks see of videos, before normalisation.

        Returns:
            By input, ``rgb`` (B, V, T, 3, S, S) and ``flow`` (B, V, T, 2L, S, S) uint8 of the V
            views of each video.

        Raises:
            ValueError: If two networks take different clips of one input.
        """
        found: dict[str, Tensor] = {}
        for name, (network, _) in self.inputs.items():
            data = _dataset(network, store, videos, (name,))
            clips = data.batch(range(len(videos)))[name]
            found[name] = (clips if clips.ndim == 6 else clips.unsqueeze(1)).contiguous()
        return found

    @cached_property
    def inputs(self) -> dict[str, tuple[Network, ClipSettings]]:
        """Returns by input a network that takes it, and how its clips are made.

        Raises:
            ValueError: If two networks take different clips of one input.
        """
        found: dict[str, tuple[Network, ClipSettings]] = {}
        for network, _ in self.distinct:
            clip = clip_settings(network.hyperparameters, views=True)
            for name in network.inputs:
                if name in found and found[name][1] != clip:
                    raise ValueError(
                        f"the networks of {self.arm} take different clips of {name}, so they have "
                        "no clips in common to write or to export; choose an arm of one network"
                    )
                found[name] = network, clip
        return found


def find_arm(
    results: ResultStore,
    *,
    study: str,
    arm: str,
    split: str | None = None,
    seed: int | None = None,
    protocol: str | None = None,
) -> TrainedArm:
    """Finds a trained arm and fits its fusion on the stored scores, exactly as for its row.

    Args:
        results: The results.
        study: The study's name.
        arm: The arm's name.
        split: The split; by default the first that has a row.
        seed: The seed; by default the best on validation of those whose networks are kept, the
            lowest of those that tie.
        protocol: The protocol, or the beginning of its hash; by default the last.

    Raises:
        ValueError: If there is no such row, or it is an ensemble's; the message names what there
            is.
        NetworkNotKeptError: If its networks were not kept.
        DamagedResultError: If a file of the results is damaged.
    """
    lines = _rows(results, study, arm, protocol)
    if lines[0]["fusion"] == ENSEMBLE:
        members = ", ".join(json.loads(lines[0]["details"])["members"])
        raise ValueError(
            f"{arm} of study {study!r} is the mean of the scores of {members}, which see clips of "
            "their own; give one of them"
        )
    splits = sorted({line["split"] for line in lines})
    split = splits[0] if split is None else split
    if split not in splits:
        raise ValueError(f"{arm} of study {study!r} has no split {split!r}; it has {_list(splits)}")
    lines = [line for line in lines if line["split"] == split]
    tested = [line for line in lines if line["part"] == "test"]
    validation = {line["seed"]: line for line in lines if line["part"] == "validation"}
    seeds = sorted(line["seed"] for line in tested)
    if seed is not None and seed not in seeds:
        raise ValueError(
            f"{arm} of study {study!r} has no seed {seed} on split {split}; it has {_list(seeds)}"
        )

    def rank(line: Mapping[str, Any]) -> tuple[float, int]:
        of_seed = validation.get(line["seed"])
        return (of_seed["top1"] if of_seed else 0.0), -line["seed"]

    wanted = [line for line in tested if seed in (None, line["seed"])]
    for line in sorted(wanted, key=rank, reverse=True):
        networks = [read_network(results, one) for one in line["training_id"].split("+")]
        if all(networks):
            held_out = validation.get(line["seed"], line)
            return _trained_arm(results, line, held_out, [one for one in networks if one])
    raise NetworkNotKeptError(
        f"the networks of {arm} of study {study!r}, split {split}, "
        f"{'any seed' if seed is None else f'seed {seed}'}, are not kept: study.run keeps them "
        "with --keep all (or those of the best seed with --keep best) once the study is done; what "
        "it didn't keep it trains again in another --results"
    )


def _rows(results: ResultStore, study: str, arm: str, protocol: str | None) -> list[dict[str, Any]]:
    """Returns an arm's lines of view ``rows`` under one protocol."""
    selections = select_protocols(results, study=study, wanted=protocol)
    if not selections:
        known = sorted(set(results.read("rows", columns=["study"])["study"].to_pylist()))
        raise ValueError(f"there is no study {study!r} with rows; there is {_list(known)}")
    if len(selections) > 1:
        datasets = ", ".join(
            f"{chosen.shown.protocol} of {dataset}" for (_, dataset), chosen in selections.items()
        )
        raise ValueError(f"study {study!r} is of several datasets; give --protocol: {datasets}")
    ((_, chosen),) = selections.items()
    lines = results.read("rows", study=study, protocol=chosen.shown.protocol).to_pylist()
    arms = sorted({line["arm"] for line in lines})
    if arm not in arms:
        raise ValueError(f"study {study!r} has no rows of arm {arm!r}; it has {_list(arms)}")
    return [line for line in lines if line["arm"] == arm]


def _list(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def _trained_arm(
    results: ResultStore,
    tested: Mapping[str, Any],
    held_out: Mapping[str, Any],
    networks: Sequence[Network],
) -> TrainedArm:
    """Returns an arm of its networks and its lines of the test and the validation part.

    The validation part's line tells which training held that part out.
    """
    fusion = tested["fusion"]
    parts = scores_of_line(results, tested)
    if held_out["scoring_id"] != tested["scoring_id"]:
        parts = parts_fitted_elsewhere(fusion, parts, scores_of_line(results, held_out))
    only = FUSIONS[fusion].stream
    streams = list(parts["test"].scores) if only is None else [only]
    read = dict(zip(streams, networks if len(networks) > 1 else [*networks] * 2, strict=False))
    views = json.loads(tested["details"])["test_views"]
    of_network = {
        id(read[stream]): read[stream]
        .of_streams([other for other in streams if read[other] is read[stream]])
        .scored_in(views[stream])
        for stream in streams
    }
    # Groups divide what is judged, not what is fitted on all of the part at a known λ.
    videos = parts["validation"].videos if "validation" in parts else []
    return TrainedArm(
        study=tested["study"],
        arm=tested["arm"],
        row=tested,
        networks={stream: of_network[id(read[stream])] for stream in streams},
        fitted=FUSIONS[fusion].fit(parts, videos, tested["fusion_lambda"]),
    )


def _dataset(
    network: Network, store: ClipStore, videos: Sequence[Video], inputs: Sequence[str]
) -> ClipDataset:
    return ClipDataset(
        store,
        videos,
        inputs=inputs,
        clip=clip_settings(network.hyperparameters, views=True),
        augment=False,
    )


def _score(
    net: VideoModel, network: Network, store: ClipStore, videos: Sequence[Video], device: str
) -> Scores:
    return score(
        net,
        _dataset(network, store, videos, net.inputs),
        device=device,
        batch_size=network.hyperparameters.batch_size,
        precision=network.hyperparameters.precision,
    )


def _only(scores: Scores, streams: Sequence[str]) -> Scores:
    return replace(
        scores,
        scores={stream: scores.scores[stream] for stream in streams},
        features={stream: scores.features[stream] for stream in streams},
    )


def _merged(scored: Sequence[Scores]) -> Scores:
    """Returns one of several networks' scores of the same videos."""
    return replace(
        scored[0],
        scores={name: matrix for one in scored for name, matrix in one.scores.items()},
        features={name: matrix for one in scored for name, matrix in one.features.items()},
    )


def _joined(pieces: Sequence[Scores]) -> Scores:
    """Returns one of the same streams' scores of several videos after each other."""
    return Scores(
        videos=[video for piece in pieces for video in piece.videos],
        labels=np.concatenate([piece.labels for piece in pieces]),
        scores={
            name: np.concatenate([piece.scores[name] for piece in pieces])
            for name in pieces[0].scores
        },
        features={
            name: np.concatenate([piece.features[name] for piece in pieces])
            for name in pieces[0].features
        },
    )


def mirrored_views(network: Network) -> tuple[bool, ...]:
    """Returns whether each of the V views that a network scores of a video is a mirror image."""
    clip = clip_settings(network.hyperparameters, views=True)
    crops = test_crops(1, 1, size=clip.crop_size, scales=clip.scales, crops=clip.crops)
    return tuple(crop.mirrored for crop in crops) * clip.clips


@contextmanager
def prepared(
    paths: Sequence[str],
    arm: TrainedArm,
    *,
    flow_folder: Path | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[PreparedVideos]:
    """Decodes videos and computes their flow as an arm's training videos were.

    What that takes lies in a temporary folder, which is gone afterwards.

    Args:
        paths: Video files and folders of frames.
        arm: The arm that is to score them.
        flow_folder: Folder of precomputed flow, for an arm that was trained on such.
        workers: Processes to work with; None for one each core.
        progress: Receives the progress about twice a second.

    Raises:
        ValueError: If the flow can't be computed here, or has to be given.
        FileNotFoundError: If a path or the flow folder doesn't exist.
    """
    if missing := [path for path in paths if not Path(path).exists()]:
        raise FileNotFoundError(f"there is no video {missing[0]}")
    settings = _settings_here(arm)
    if settings.flow is None and flow_folder is None:
        raise ValueError(
            f"{arm.arm} was trained on flow that was computed before: give that of these videos "
            "with --flow DIR"
        )
    with tempfile.TemporaryDirectory(prefix="study-predict-") as name:
        folder = Path(name)
        videos = _linked(paths, folder / "videos")
        annotations = Annotations(
            dataset=settings.dataset,
            classes=arm.network.classes,
            splits={"1": Split(name="1", train=(), test=tuple(videos))},
            flip_classes=arm.network.flip_classes,
        )
        prepare(
            annotations,
            folder / "videos",
            folder / "store",
            settings,
            flow_folder=flow_folder if settings.flow is None else None,
            workers=workers,
            progress=progress,
        )
        store = ClipStore.open(folder / "store")
        usable = [(video, path) for video, path in videos.items() if video.name in store]
        yield PreparedVideos(
            store=store,
            videos=tuple(video for video, _ in usable),
            paths=tuple(path for _, path in usable),
            skipped={
                path: store.skipped[video.name]
                for video, path in videos.items()
                if video.name not in store
            },
        )


def _settings_here(arm: TrainedArm) -> StoreSettings:
    """Returns the settings of the arm's store, with the flow as far as it is needed here.

    Flow that no network sees takes the least effort; the GPU's is the CPU's scheme, which takes its
    place where there is no GPU.
    """
    settings = arm.network.store
    if not any("flow" in network.inputs for network, _ in arm.distinct):
        return replace(settings, flow=UNSEEN_FLOW)
    if settings.flow is None or settings.flow_backend != GPU_FLOW or torch.cuda.is_available():
        return settings
    return replace(settings, flow=replace(settings.flow, backend="tvl1"))


def _linked(paths: Sequence[str], folder: Path) -> dict[Video, str]:
    """Links videos from anywhere into one folder, under names of their own.

    Returns:
        The path of each video as given, in that order.
    """
    folder.mkdir()
    videos = {}
    for number, path in enumerate(paths):
        source = Path(path).resolve()
        link = f"{number:06d}{'' if source.is_dir() else source.suffix}"
        (folder / link).symlink_to(source)
        name = f"{number:06d}/{source.name if source.is_dir() else source.stem}"
        videos[Video(name=name, path=link, label=0, group=name)] = path
    return videos
