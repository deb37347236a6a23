"""Attention-consistency loss between two branch-independent streams.

"Exploiting attention-consistency loss for spatial-temporal stream action recognition", ACM
Transactions on Multimedia Computing, Communications, and Applications 18 (2s), 2022. Its tables
aren't public. That its baseline is SlowFast-R50 4×16 is an inference from two of its figures.
"""

from dataclasses import replace
from typing import Any

from search_spaces.embedded import fit_to_embedded
from search_spaces.registry import register_space
from search_spaces.space import Arm, Real, Settings, Space, Table, TableRow

__all__ = ["attention_consistency"]

LAST_THREE = ("layer2", "layer3", "layer4")
LEVELS = {
    "level-4": ("layer4",),
    "levels-3-4": ("layer3", "layer4"),
    "levels-1-4": ("layer1", *LAST_THREE),
}
SMALL_LEVELS = {"layer2": "stage2", "layer3": "stage3", "layer4": "stage4"}
SMALL_LAST_THREE = tuple(SMALL_LEVELS.values())
BASELINE = "no public number; SlowFast-R50 4×16, which the figures fit, has 75.6 % on Kinetics-400"
FLOW_INPUT = {
    "segments": 3,
    "frame_stride": None,
    "test_segments": 25,
    "test_clips": 1,
    "test_crops": "centre",
    "test_crop_size": None,
}


@register_space("attention_consistency")
def attention_consistency() -> Space:
    """Returns lateral connections, levels, distances, maps, flow; searched: rate and λ."""
    return Space(
        name="attention_consistency",
        title="Attention-consistency loss between independent streams (2022)",
        arms=(
            _slow_fast(
                "baseline", "Baseline with lateral connections", (), lateral=True, fusion="spatial"
            ),
            _slow_fast("no-lateral", "Without lateral connections", ()),
            _slow_fast("slow-alone", "Slow pathway alone", (), fusion="spatial"),
            _slow_fast("fast-alone", "Fast pathway alone", (), fusion="temporal"),
            _slow_fast("attention-consistency", "Attention consistency", LAST_THREE),
            *(
                _slow_fast(name, f"Attention consistency at {', '.join(levels)}", levels)
                for name, levels in LEVELS.items()
            ),
            _slow_fast("cosine", "Cosine distance", LAST_THREE, distance="cosine"),
            _slow_fast("kl", "Kullback–Leibler divergence", LAST_THREE, distance="kl"),
            _slow_fast("cam", "Class-activation maps", ("layer4",), map="cam"),
            _slow_fast("no-stop-gradient", "No stop-gradient", LAST_THREE, stop_gradient=False),
            _two_stream("two-stream", "RGB and flow", ()),
            _two_stream(
                "two-stream-attention-consistency",
                "RGB and flow, attention consistency",
                LAST_THREE,
            ),
        ),
        search_arm="attention-consistency",
        parameters=(
            Real(name="learning_rate", low=1e-3, high=1.0, log=True),
            # The mean over unit vectors' cells is tiny, so λ goes far up.
            Real(
                name="loss_weights.attention_consistency",
                low=1.0,
                high=1e3,
                log=True,
                applies_to=(("levels", (LAST_THREE, *LEVELS.values(), SMALL_LAST_THREE)),),
            ),
        ),
        tables=(
            Table(
                name="attention-consistency",
                title="Attention-consistency loss",
                rows=(
                    TableRow("baseline", note=BASELINE),
                    TableRow("no-lateral", note="no public number"),
                    TableRow("attention-consistency"),
                ),
            ),
            Table(
                name="attention-consistency-ablation",
                title="Attention-consistency loss: levels and distances (ours)",
                ours=True,
            ),
        ),
        # Ours: the paper's settings aren't public. Those of SlowFast networks on Kinetics, at a
        # batch of 64: every second of 64 frames in a row.
        settings=Settings(
            options={"backbone": "resnet50", "speed_ratio": 8, "channel_ratio": 8, "dropout": 0.5},
            hyperparameters={
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "batch_size": 64,
                "schedule": "cosine",
                "warmup_epochs": 34,
                "epochs": 196,
                "segments": 32,
                "frame_stride": 2,
                "test_segments": None,
                "test_clips": 10,
                "test_crops": "three",
                "test_crop_size": 256,
            },
        ),
        variants={"embedded": _on_embedded},
    )


def _on_embedded(space: Space) -> Space:
    """The store's three stacks give the fast pathway three frames and the slow one the first."""
    small = fit_to_embedded(
        space,
        Settings(
            options={"speed_ratio": 3, "channel_ratio": 4, "dropout": 0.0},
            hyperparameters={
                "weight_decay": 5e-4,
                "segments": 3,
                "frame_stride": None,
                "test_clips": 1,
                "test_crops": "centre",
                "test_crop_size": None,
            },
        ),
    )
    return replace(small, arms=tuple(map(_small, space.arms)))


def _small(arm: Arm) -> Arm:
    """Returns the arm with the small backbone's levels, where it has a backbone for each stream."""
    if arm.options["form"] == "slow_fast":
        return arm
    levels = tuple(SMALL_LEVELS[level] for level in arm.options["levels"])
    return replace(arm, options={**arm.options, "levels": levels}, hyperparameters={})


def _slow_fast(
    name: str, label: str, levels: tuple[str, ...], *, fusion: str = "average", **options: Any
) -> Arm:
    return Arm(
        name=name,
        label=label,
        model="attention_consistency",
        options={"form": "slow_fast", "levels": levels, **options},
        fusion=fusion,
    )


def _two_stream(name: str, label: str, levels: tuple[str, ...]) -> Arm:
    return Arm(
        name=name,
        label=label,
        model="attention_consistency",
        options={"form": "two_stream", "levels": levels},
        hyperparameters=FLOW_INPUT,
    )
