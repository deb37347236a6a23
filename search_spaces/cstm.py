"""CSTM: collaborative spatial-temporal module.

Zheng and Zhang, "Collaborative spatial-temporal networks for action recognition": the module
against its branches, against gate-shift modules with the same attention, and against other systems
on Something-Something and Jester.
"""

from dataclasses import replace
from typing import Any

from search_spaces.embedded import fit_to_embedded
from search_spaces.registry import register_space
from search_spaces.space import Arm, Choice, Real, Settings, Space, Table, TableRow

__all__ = ["cstm"]

MODULES = {
    "2d": "2D",
    "shift": "Shift",
    "3d": "3D",
    "3d_shift_sum": "3D_Shift_sum",
    "gsm": "GSM",
    "gsm_attention": "GSM + attention",
    "cstm": "CSTM",
}

COMPARED = {  # in Table 3, with what each started from
    "tsn": "TSN ResNet-50, Kinetics",
    "trn": "TRN multiscale BN_Inception, ImageNet",
    "tsm": "TSM ResNet-50, Kinetics",
    "tsm-16": "TSM ResNet-50, Kinetics, 16 frames",
    "gsm": "GSM BN_Inception, ImageNet",
    "s3d": "S3D BN_Inception, ImageNet, 64 frames",
    "s3d-g": "S3D-G BN_Inception, ImageNet, 64 frames",
    "stm": "STM ResNet-50, ImageNet",
    "cstm-bn_inception": "CSTM BN_Inception, ImageNet",
    "cstm-inception_v3": "CSTM Inception v3, ImageNet",
    "cstm-bn_inception-16": "CSTM BN_Inception, ImageNet, 16 frames",
    "cstm-inception_v3-16": "CSTM Inception v3, ImageNet, 16 frames",
}
BOTH_ACCURACIES = ("top1", "top5")


@register_space("cstm")
def cstm() -> Space:
    """Returns modules and networks; searched: rate, dropout, reduction, shift fraction."""
    return Space(
        name="cstm",
        title="CSTM: 3-D convolution and temporal shift, weighted by attention",
        arms=(
            *(
                Arm(
                    name=module.replace("_", "-"),
                    label=label,
                    model="cstm",
                    options={"module": module},
                    fusion="spatial",
                )
                for module, label in MODULES.items()
            ),
            *(
                Arm(
                    name=f"cstm-{name}",
                    label=f"CSTM, {label}",
                    model="cstm",
                    options={"module": "cstm", "streams": ("spatial", "temporal")},
                    fusion=fusion,
                )
                for name, label, fusion in (
                    ("flow", "flow", "temporal"),
                    ("two-stream", "RGB + flow", "average"),
                )
            ),
            *(
                _other(
                    f"cstm-{backbone}{'-16' if frames == 16 else ''}",
                    f"CSTM {backbone}, {frames} frames",
                    "cstm",
                    frames,
                    backbone=backbone,
                    module="cstm",
                )
                for frames in (8, 16)
                for backbone in ("bn_inception", "inception_v3", "resnet50")
            ),
            _other("tsn", "TSN ResNet-50", "tsn", 8, backbone="resnet50", streams=("spatial",)),
            _other("trn", "TRN multiscale BN_Inception", "trn", 8, backbone="bn_inception"),
            _other("tsm", "TSM ResNet-50", "tsm", 8, backbone="resnet50"),
            _other("tsm-16", "TSM ResNet-50, 16 frames", "tsm", 16, backbone="resnet50"),
            _other("s3d", "S3D, 64 frames", "s3d", 64),
            _other("s3d-g", "S3D-G, 64 frames", "s3d_g", 64),
            _other("stm", "STM ResNet-50", "stm", 8, backbone="resnet50"),
        ),
        search_arm="cstm",
        parameters=(
            Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
            Real(name="options.dropout", low=0.0, high=0.8),
            Choice(name="options.attention_reduction", choices=(4, 8, 16, 32)),
            Choice(name="options.shift_fraction", choices=(0.0625, 0.125, 0.25)),
        ),
        tables=_tables(),
        # The paper's aren't public; these are gate-shift networks' on the same datasets.
        settings=Settings(
            options={"backbone": "bn_inception", "dropout": 0.5},
            hyperparameters={
                "learning_rate": 0.01,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 32,
                "schedule": "cosine",
                "warmup_epochs": 10,
                "epochs": 60,
                "clip_norm": 20.0,
                "segments": 8,
                "test_segments": None,
            },
        ),
        variants={"embedded": _on_embedded},
    )


def _on_embedded(space: Space) -> Space:
    """The store has three stacks, which are all that the modules mix.

    The comparison's rows have frames of their own, too many for it.
    """
    small = fit_to_embedded(
        space,
        Settings(
            options={"dropout": 0.0, "attention_reduction": 8},
            hyperparameters={"segments": 3},
        ),
    )
    arms = (replace(arm, default=not arm.hyperparameters) for arm in space.arms)
    return replace(small, arms=tuple(arms))


def _other(name: str, label: str, model: str, frames: int, **options: Any) -> Arm:
    """Returns a row of the comparison, which has a backbone and frames of its own."""
    return Arm(
        name=name,
        label=label,
        model=model,
        options=options,
        hyperparameters={"segments": frames},
        fusion="spatial",
    )


def _tables() -> tuple[Table, ...]:
    modules = [module.replace("_", "-") for module in MODULES]
    others = ("cstm-flow", "cstm-two-stream", "cstm-resnet50", "cstm-resnet50-16")
    return (
        Table(
            name="cstm-1",
            title="CSTM: against the plain sum of its branches",
            rows=(
                *map(TableRow, ("gsm", "3d-shift-sum")),
                TableRow("cstm", note="its number is printed in Table 2"),
            ),
            metrics=BOTH_ACCURACIES,
        ),
        Table(
            name="cstm-2",
            title="CSTM, Table 2: against GSM with attention",
            rows=tuple(map(TableRow, ("gsm-attention", "cstm"))),
            metrics=BOTH_ACCURACIES,
        ),
        Table(
            name="cstm-3",
            title="CSTM, Table 3: comparison with other systems",
            rows=tuple(TableRow(arm, label) for arm, label in COMPARED.items()),
            metrics=BOTH_ACCURACIES,
        ),
        Table(
            name="cstm-ablation",
            title="CSTM: its branches, its attention and a flow stream (ours)",
            rows=tuple(map(TableRow, (*modules, *others))),
            ours=True,
        ),
    )
