"""Convolutional two-stream fusion.

Feichtenhofer, Pinz and Zisserman, "Convolutional two-stream network fusion for video action
recognition", CVPR 2016: how to fuse two towers, at which layer, and over time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from search_spaces.embedded import fit_to_embedded
from search_spaces.registry import register_space
from search_spaces.space import (
    STREAMS,
    Arm,
    Choice,
    Parameter,
    Real,
    Settings,
    Space,
    Table,
    TableRow,
)

__all__ = ["conv_fusion"]

METHODS = {
    "max": "Max",
    "cat": "Concatenation",
    "bilinear": "Bilinear",
    "sum": "Sum",
    "conv": "Conv",
}
LAYERS = {
    "relu2": ("ReLU2", ("relu2",)),
    "relu3": ("ReLU3", ("relu3",)),
    "relu4": ("ReLU4", ("relu4",)),
    "relu5": ("ReLU5", ("relu5",)),
    "relu5-fc8": ("ReLU5 + FC8", ("relu5", "fc8")),
    "relu3-relu5-fc6": ("ReLU3 + ReLU5 + FC6", ("relu3", "relu5", "fc6")),
}
OTHERS = {  # ours: layers of another VGG, and of a ResNet, which has one classifier layer
    "vgg16-relu3": ("vgg16", "relu3_3"),
    "vgg16-relu4": ("vgg16", "relu4_3"),
    "vgg16-relu5": ("vgg16", "relu5_3"),
    "resnet50-layer2": ("resnet50", "layer2"),
    "resnet50-layer3": ("resnet50", "layer3"),
    "resnet50-layer4": ("resnet50", "layer4"),
}
SMALL_STAGES = {
    "relu2": "stage1",
    "relu3": "stage2",
    "relu4": "stage3",
    "relu5": "stage4",
    "relu5_3": "stage4",
}
FRAMES_APART = {"towers": 1, "conv": "2d", "pool": "2d"}
AVERAGE = Arm(
    name="average",
    label="Softmax average",
    model="two_stream",
    options={"backbone": "vgg_m_2048", "head_dims": (4096, 2048)},
)


def _towers(backbone: str, head_dims: tuple[int, ...]) -> Arm:
    """Returns the trained towers that others start from, which no table shows."""
    return Arm(
        name=f"{backbone.replace('_', '-')}-towers",
        label=f"{backbone} towers",
        model="two_stream",
        options={"backbone": backbone, "head_dims": head_dims},
    )


TOWERS = {
    "vgg_m_2048": AVERAGE,
    "vgg16": _towers("vgg16", (4096, 4096)),
    "resnet50": _towers("resnet50", ()),
}
# A network of both kinds has classifiers of one size, VGG-16's (ours).
BESIDE_VGG16 = _towers("vgg_m_2048", (4096, 4096))


@register_space("conv_fusion")
def conv_fusion() -> Space:
    """Returns methods, layers, time, towers; searched: rate, layer, dropout, tower loss weight."""
    return Space(
        name="conv_fusion",
        title="Convolutional two-stream fusion (2016)",
        arms=(
            AVERAGE,
            *(
                _vgg_m(method, label, ("relu5",), {"method": method})
                for method, label in METHODS.items()
            ),
            *(
                _vgg_m(name, label, layers, {"method": "conv"})
                for name, (label, layers) in LAYERS.items()
            ),
            *(_over_time(conv, pool) for conv, pool in (("2d", "2d"), ("2d", "3d"), ("3d", "3d"))),
            _final("one-tower", "Fusion, one tower", towers=1),
            _final("two-towers", "Fusion, two towers", towers=2),
            *(
                Arm(
                    name=name,
                    label=f"Conv, {backbone} {layer}",
                    model="conv_fusion",
                    options={
                        "backbone": backbone,
                        "layers": (layer,),
                        "head_dims": (4096, 4096) if backbone == "vgg16" else (),
                        **FRAMES_APART,
                    },
                    fusion="spatial",
                    starts_from=dict.fromkeys(STREAMS, TOWERS[backbone]),
                )
                for name, (backbone, layer) in OTHERS.items()
            ),
        ),
        search_arm="two-towers",
        parameters=_parameters(("relu3_3", "relu4_3", "relu5_3")),
        tables=(
            _table("methods", "methods", ("average", *METHODS)),
            _table("layers", "layers", LAYERS),
            _table(
                "temporal",
                "temporal convolution and pooling",
                ("2d-conv-2d-pool", "2d-conv-3d-pool", "3d-conv-3d-pool"),
            ),
            _table(
                "systems",
                "one tower and two",
                ("one-tower", "two-towers"),
                note="the paper's rows with improved dense trajectories, hand-made features of the "
                "video, are left out: nothing here computes them",
            ),
            _table("backbones", "other backbones (ours)", OTHERS, ours=True),
        ),
        # Section 4: the towers are trained by themselves first, then backpropagation stops at the
        # fusion layer. Ours: epochs in place of iterations, and towers have the same settings.
        settings=Settings(
            options={
                "backbone": "vgg16",
                "layers": ("relu5_3",),
                "dropout": 0.85,
                "freeze_towers": True,
            },
            hyperparameters={
                "learning_rate": 1e-3,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 96,
                "schedule": "step",
                "milestones": (0.5, 0.8),
                "epochs": 30,
                "segments": 5,
                "test_segments": None,
                "test_clips": 5,
                "flow_length": 10,
            },
        ),
        variants={"embedded": _on_embedded},
    )


def _on_embedded(space: Space) -> Space:
    """The store has three stacks, so the 3-D pooling spans them all.

    Small towers learn together with what follows, which takes one training in place of two.
    """
    small = fit_to_embedded(
        space,
        Settings(
            options={
                "layers": ("stage4",),
                "head_dims": (128, 128),
                "dropout": 0.0,
                "freeze_towers": False,
            },
            hyperparameters={"segments": 3, "test_clips": 1},
        ),
    )
    return replace(
        small,
        arms=tuple(map(_small, space.arms)),
        parameters=_parameters(("stage2", "stage3", "stage4")),
    )


def _small(arm: Arm) -> Arm:
    """Returns the arm with the small backbone and its layers, and towers that learn with it."""
    if arm.name in OTHERS:
        return replace(arm, default=False)
    large = ("backbone", "temporal_backbone", "head_dims")
    options = {name: value for name, value in arm.options.items() if name not in large}
    if "layers" in options:
        options["layers"] = tuple(SMALL_STAGES.get(layer, layer) for layer in options["layers"])
    return replace(arm, options=options, starts_from={})


def _parameters(layers: tuple[str, ...]) -> tuple[Parameter, ...]:
    return (
        Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
        Choice(name="options.layers", choices=tuple((layer,) for layer in layers)),
        Real(name="options.dropout", low=0.0, high=0.9),
        Real(
            name="loss_weights.temporal",
            low=0.25,
            high=2.0,
            log=True,
            applies_to=(("towers", (2,)),),
        ),
    )


def _vgg_m(name: str, label: str, layers: tuple[str, ...], how: Mapping[str, Any]) -> Arm:
    """Returns an arm of the tables of methods and layers: VGG-M-2048, frames apart, one tower."""
    return Arm(
        name=name,
        label=label,
        model="conv_fusion",
        options={
            "backbone": "vgg_m_2048",
            "head_dims": (4096, 2048),
            "layers": layers,
            **how,
            **FRAMES_APART,
        },
        fusion="spatial",
        starts_from=dict.fromkeys(STREAMS, AVERAGE),
    )


def _over_time(conv: str, pool: str) -> Arm:
    """Returns an arm of the temporal table: both networks and losses are kept behind the fusion.

    torchvision has no ImageNet weights of VGG-M: ``--weights temporal=FILE`` starts that tower from
    a file, and VGG-16 from torchvision's.
    """
    return Arm(
        name=f"{conv}-conv-{pool}-pool",
        label=f"{conv[0]}D conv + {pool[0]}D pool",
        model="conv_fusion",
        options={
            "backbone": "vgg16",
            "temporal_backbone": "vgg_m_2048",
            "layers": ("relu5_3",),
            "conv": conv,
            "pool": pool,
            "towers": 2,
        },
        starts_from={"spatial": TOWERS["vgg16"], "temporal": BESIDE_VGG16},
    )


def _final(name: str, label: str, *, towers: int) -> Arm:
    """Returns the paper's final net; its layer is searched."""
    return Arm(
        name=name,
        label=label,
        model="conv_fusion",
        options={"conv": "3d", "pool": "3d", "towers": towers},
        fusion="average" if towers == 2 else "spatial",
        starts_from=dict.fromkeys(STREAMS, TOWERS["vgg16"]),
    )


def _table(
    name: str, about: str, arms: Iterable[str], *, ours: bool = False, note: str = ""
) -> Table:
    return Table(
        name=f"conv-fusion-{name}",
        title=f"Convolutional two-stream fusion: {about}",
        rows=tuple(map(TableRow, arms)),
        ours=ours,
        note=note,
    )
