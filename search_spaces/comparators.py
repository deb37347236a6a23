"""What the five systems are compared with: each network, and the published forms of some.

TSN's third modality is warped flow. No network sees two stores: its scores are those of another
study, named ``warped``, on a store that was prepared with ``--flow-backend tvl1-warped``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces.embedded import fit_to_embedded
from search_spaces.registry import register_space
from search_spaces.space import Arm, Ensemble, Real, Settings, Space, Table, TableRow

__all__ = ["FINAL", "VOLUMES", "comparators"]

BOTH = ("spatial", "temporal")
FINAL = {
    "two-stream-cnn-average": "Two-stream CNN",
    "tsn-2": "TSN",
    "trn": "TRN",
    "tsm": "TSM",
    "gsm": "GSM",
    "stm": "STM",
    "c3d": "C3D",
    "p3d-199": "P3D",
    "s3d": "S3D",
    "s3d-g": "S3D-G",
    "r2plus1d": "R(2+1)D",
    "i3d": "I3D",
    "spatiotemporal-multiplier": "Spatiotemporal multiplier",
    "attentional-pooling": "Attentional pooling",
    "artnet": "ARTNet",
}
"""The arm of each network that the space ``all`` compares, with its label there."""

VOLUMES = ("c3d", "p3d", "s3d", "s3d_g", "r2plus1d", "i3d", "artnet")
"""The networks of volumes, which have no backbone."""

AVERAGING = ("two_stream", "tsn", "attentional_pooling")  # of segments, so of any number
TOO_LARGE = ("s3d", "s3d_g")  # for the embedded dataset, as is every backbone of an arm's own
NARROW = {"width": 0.25}
SMALL: Mapping[str, Mapping[str, Any]] = {  # what a model takes on the embedded dataset
    "two_stream": {"head_dims": (128,)},
    "trn": {"frames": 3},
    "c3d": {**NARROW, "head_dims": (128,), "head_grid": 2},
    "p3d": {**NARROW, "depths": (1, 1, 1, 1)},
    "r2plus1d": {**NARROW, "depths": (1, 1, 1, 1)},
    "i3d": NARROW,
    "artnet": {**NARROW, "depths": (1, 1, 1, 1)},
}

WITHOUT_NUMBERS = (
    "tsn-rgb",
    "tsn-flow",
    "trn",
    "tsm",
    "gsm",
    "stm",
    "attentional-pooling",
    "spatiotemporal-multiplier",
    "c3d",
    "p3d-199",
    "s3d",
    "s3d-g",
    "r2plus1d",
    "i3d",
    "i3d-rgb",
    "i3d-flow",
    "artnet",
)
STARTS: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, Any]]] = {
    "scratch": ("from scratch", {"spatial": "none", "temporal": "none"}, {}),
    "spatial-pretrained": ("spatial stream pretrained", {"temporal": "none"}, {}),
    "cross-modality": ("+ cross-modality start", {}, {}),
    "partial-bn": ("+ partial BN and dropout", {}, {"partial_bn": True, "dropout": 0.8}),
}
STREAM_FUSIONS = (("spatial",) * 2, ("temporal",) * 2, ("fused", "average"))
DENSE = ("s3d", "s3d-g", "i3d-rgb")  # trained on 64 frames in a row by their authors


@register_space("comparators")
def comparators() -> Space:
    """Returns every network under one protocol of ours; searched: learning rate and dropout."""
    return Space(
        name="comparators",
        title="Published comparators",
        arms=(
            *_two_stream_cnn(),
            *_vgg16(),
            *(
                _arm(name, label, "tsn", 3, {"streams": BOTH}, fusion=fusion, ten_crops=True)
                for name, label, fusion in (
                    ("tsn-2", "TSN, 2 modalities", "average"),
                    ("tsn-rgb", "TSN, RGB", "spatial"),
                    ("tsn-flow", "TSN, flow", "temporal"),
                )
            ),
            _arm("trn", "TRN, multi-scale", "trn", 8),
            _arm("tsm", "TSM", "tsm", 8),
            _arm("gsm", "GSM", "gsm", 8),
            _arm("stm", "STM", "stm", 8),
            _arm("attentional-pooling", "Attentional pooling", "attentional_pooling", 3),
            _arm(
                "spatiotemporal-multiplier",
                "Spatiotemporal multiplier network",
                "spatiotemporal_multiplier",
                5,
                fusion="average",
            ),
            *_volumes(),
            *_printed(),
            *_dense(),
            *_starts(),
        ),
        search_arm="tsn-2",
        parameters=(
            Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
            Real(name="options.dropout", low=0.0, high=0.9),
        ),
        tables=(
            Table(
                name="comparators",
                title="Published comparators",
                rows=(
                    *_rows_with_numbers(),
                    *(
                        TableRow(arm, note="no published number is listed")
                        for arm in WITHOUT_NUMBERS
                    ),
                ),
            ),
            Table(
                name="tsn-starts",
                title="TSN: the streams' initial weights, UCF101 split 1",
                rows=tuple(TableRow(arm.name) for arm in _starts()),
                note="ImageNet weights of BN-Inception are a file of your own, --weights PATH; the "
                "fused rows weigh both streams the same (ours)",
            ),
            Table(
                name="dense-volumes",
                title="Networks of volumes on 64 frames in a row",
                rows=tuple(TableRow(arm.name) for arm in _dense()),
                ours=True,
                note="ten clips of each test video and three crops of each clip, 256 px of the "
                "whole short side, as SlowFast is tested",
            ),
        ),
        # Ours: one protocol for all. What a clip is, and the network's options, are each paper's.
        settings=Settings(
            options={"partial_bn": True},
            hyperparameters={
                "learning_rate": 0.01,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 64,
                "schedule": "cosine",
                "warmup_epochs": 5,
                "epochs": 60,
                "clip_norm": 20.0,
                "flow_length": 10,
            },
        ),
        ensembles=(
            Ensemble(
                name="tsn-3",
                label="TSN, 3 modalities",
                # Section 4.2 gives the flow stream 1.5 of the RGB stream's weight, and divides it
                # into 1 and 0.5 where there is warped flow too.
                members={"tsn-rgb": 1.0, "tsn-flow": 1.0, "warped/tsn-flow": 0.5},
            ),
            Ensemble(
                name="gsm-inception_v3-ensemble",
                label="GSM Inception v3, 8×2 + 12×2 + 16 + 24 frames",
                members={
                    f"gsm-inception_v3-{frames}": 1.0 for frames in ("8x2", "12x2", "16", "24")
                },
            ),
        ),
        variants={"embedded": _on_embedded},
    )


def _on_embedded(space: Space) -> Space:
    """The store has three stacks: a clip is three frames, or a volume of 3 × 4 flow fields."""
    small = fit_to_embedded(
        space,
        Settings(options={"partial_bn": False, "dropout": 0.0}, hyperparameters={"segments": 3}),
    )
    return replace(small, arms=tuple(map(_small, space.arms)))


def _small(arm: Arm) -> Arm:
    """Returns the arm with clips as the store has them, narrower where its network can be."""
    dense = arm.hyperparameters.get("frame_stride") is not None
    if dense or arm.model in TOO_LARGE or "backbone" in arm.options:
        return replace(arm, hyperparameters={}, default=False)
    options = {**arm.options, **SMALL.get(arm.model, {})}
    return replace(arm, options=options, hyperparameters={})


def _arm(
    name: str,
    label: str,
    model: str,
    frames: int,
    options: Mapping[str, Any] | None = None,
    *,
    fusion: str = "spatial",
    crop_size: int | None = None,
    ten_crops: bool = False,
) -> Arm:
    """Returns a network with its paper's clips.

    Args:
        name: The arm's name.
        label: The arm's label.
        model: The network's name.
        frames: Segments of a clip. Networks that average segments are tested on more; those that
            mix them, on as many.
        options: The network's options.
        fusion: The arm's fusion.
        crop_size: Side of its frames in pixels where it isn't the field's usual one.
        ten_crops: Whether its published number is of ten crops of each test frame.
    """
    crops = {"test_crops": "ten"} if ten_crops else {}
    size = {} if crop_size is None else {"crop_size": crop_size}
    tested = {} if model in AVERAGING else {"test_segments": frames}
    return Arm(
        name=name,
        label=label,
        model=model,
        options=options or {},
        hyperparameters={"segments": frames, **tested, **size, **crops},
        fusion=fusion,
    )


def _two_stream_cnn() -> tuple[Arm, ...]:
    """Returns the classic net, of single frames."""
    rows = (("spatial",) * 2, ("temporal",) * 2, ("average",) * 2, ("SVM", "scores-svm"))
    return tuple(
        _arm(
            f"two-stream-cnn-{how.lower()}",
            f"Two-stream CNN, {how}",
            "two_stream",
            1,
            {"streams": BOTH},
            fusion=fusion,
            ten_crops=True,
        )
        for how, fusion in rows
    )


def _vgg16() -> tuple[Arm, ...]:
    return tuple(
        _arm(
            f"vgg16-{how}",
            f"VGG-16, {how}",
            "two_stream",
            1,
            {"backbone": "vgg16", "head_dims": (4096, 4096), "streams": BOTH},
            fusion=fusion,
            ten_crops=True,
        )
        for how, fusion in STREAM_FUSIONS
    )


def _starts() -> tuple[Arm, ...]:
    """Returns TSN's Table 2: two-stream networks of one segment by what they start from."""
    return tuple(
        Arm(
            name=f"{start}-{how}",
            label=f"{how.capitalize()}, {label}",
            model="tsn",
            options={
                "backbone": "bn_inception",
                "streams": BOTH,
                "partial_bn": False,
                "dropout": 0.0,
                **options,
            },
            hyperparameters={"segments": 1, "test_crops": "ten", "rate_multipliers": "tsn"},
            weights=weights,
            fusion=fusion,
            default=False,
        )
        for start, (label, weights, options) in STARTS.items()
        for how, fusion in STREAM_FUSIONS
    )


def _dense() -> tuple[Arm, ...]:
    """Returns networks of volumes of 64 frames in a row, tested as SlowFast is."""
    volumes = {arm.name: arm for arm in _volumes()}
    views = {"test_clips": 10, "test_crops": "three", "test_crop_size": 256}
    return tuple(
        replace(
            _with(volumes[name], frame_stride=1, **views),
            name=f"{name}-dense",
            label=f"{volumes[name].label}, 64 frames in a row",
            default=False,
        )
        for name in DENSE
    )


def _volumes() -> tuple[Arm, ...]:
    """Returns the 3-D networks."""
    return (
        _arm("c3d", "C3D", "c3d", 16, crop_size=112),
        _arm("p3d-199", "P3D-199", "p3d", 16, crop_size=160),
        _arm("s3d", "S3D", "s3d", 64),
        _arm("s3d-g", "S3D-G", "s3d_g", 64),
        _arm("r2plus1d", "R(2+1)D-18", "r2plus1d", 16, crop_size=112),
        # Flow of one field a frame.
        *(
            _i3d(name, label, fusion)
            for name, label, fusion in (
                ("i3d", "I3D, RGB + flow", "average"),
                ("i3d-rgb", "I3D, RGB", "spatial"),
                ("i3d-flow", "I3D, flow", "temporal"),
            )
        ),
        _arm("artnet", "ARTNet-R18", "artnet", 16, crop_size=112),
    )


def _i3d(name: str, label: str, fusion: str) -> Arm:
    """Returns I3D: 64 frames and a flow field at each; on the embedded dataset four at each."""
    return Arm(
        name=name,
        label=label,
        model="i3d",
        options={"streams": BOTH},
        hyperparameters={"segments": 64, "test_segments": 64, "flow_length": 1},
        fusion=fusion,
    )


def _printed() -> tuple[Arm, ...]:
    """Returns the forms that have published numbers, with their own backbones and frames.

    Those of TSM's and gate-shift networks' public code have its multiples of the learning rate.
    """
    resnet = {"backbone": "resnet50"}
    tsn = {**resnet, "streams": BOTH}
    return (
        _arm("tsn-resnet50-rgb", "TSN-R50, RGB", "tsn", 3, tsn),
        _with(_arm("tsm-resnet50", "TSM-R50, 8 frames", "tsm", 8, resnet), rate_multipliers="tsm"),
        *(
            _arm(
                f"tsn-resnet50-8-{how}",
                f"TSN-R50 1×1×8, {label}",
                "tsn",
                8,
                tsn,
                fusion=fusion,
            )
            for how, label, fusion in (
                ("rgb", "RGB", "spatial"),
                ("flow", "flow", "temporal"),
                ("average", "RGB : flow = 1 : 1", "average"),
            )
        ),
        *(
            _with(
                _arm(
                    f"gsm-inception_v3-{frames}{f'x{clips}' if clips > 1 else ''}",
                    f"GSM Inception v3, {frames} frames{' of 2 clips' if clips > 1 else ''}",
                    "gsm",
                    frames,
                    {"backbone": "inception_v3"},
                ),
                test_clips=clips,
                rate_multipliers="tsn",
            )
            for clips, lengths in ((1, (8, 12, 16, 24)), (2, (8, 12)))
            for frames in lengths
        ),
        *(
            _with(
                _arm(
                    f"tsm-resnet50-{frames}",
                    f"TSM-R50, {frames} frames",
                    "tsm",
                    frames,
                    resnet,
                ),
                rate_multipliers="tsm",
            )
            for frames in (8, 16)
        ),
        Arm(
            name="tsm-resnet50-8-dense",
            label="TSM-R50, 8 frames, dense",
            model="tsm",
            options=resnet,
            # 8 of 64 frames in a row; tested in ten clips, of which we take the centre crop.
            hyperparameters={
                "segments": 8,
                "frame_stride": 8,
                "test_segments": 8,
                "test_clips": 10,
                "rate_multipliers": "tsm",
            },
            fusion="spatial",
            default=False,
        ),
    )


def _with(arm: Arm, **hyperparameters: Any) -> Arm:
    return replace(arm, hyperparameters={**arm.hyperparameters, **hyperparameters})


def _rows_with_numbers() -> tuple[TableRow, ...]:
    two_stream_cnn = ("spatial", "temporal", "average", "svm")
    return (
        *(TableRow(f"two-stream-cnn-{how}") for how in two_stream_cnn),
        TableRow("tsn-2"),
        TableRow(
            "tsn-3",
            note="its third modality is of study 'warped', on a store of warped flow",
        ),
        TableRow("tsn-resnet50-rgb", "TSN-R50, RGB, ImageNet start"),
        TableRow("tsm-resnet50", "TSM-R50, 8 frames, Kinetics start"),
        *(TableRow(f"vgg16-{how}") for how in ("spatial", "temporal", "fused")),
        *(TableRow(f"tsn-resnet50-8-{how}") for how in ("rgb", "flow", "average")),
        TableRow("tsm-resnet50-8-dense"),
        *(TableRow(f"gsm-inception_v3-{frames}") for frames in (8, 12, 16, 24, "8x2", "12x2")),
        TableRow("gsm-inception_v3-ensemble"),
        *(
            TableRow(f"tsm-resnet50-{frames}", f"TSM-R50, {frames} frames, centre crop")
            for frames in (8, 16)
        ),
    )
