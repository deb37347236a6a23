"""STILT: spatial-temporal interaction learning two-stream network.

Liu et al., "Spatial-temporal interaction learning based two-stream network for action
recognition", Information Sciences, 2022: Tables 4 to 6, and the whole fusion ablation (both nets
under every fusion), which costs no training beyond the two of Table 4.
"""

from search_spaces.embedded import fit_to_embedded
from search_spaces.registry import register_space
from search_spaces.space import Arm, Choice, Real, Settings, Space, Table, TableRow

__all__ = ["stilt"]

FUSED = {
    "weighted": "1 : 1.5 late average",
    "early": "Early (SVM)",
    "awf-simplex": "AWF",
    "awf-floor": "AWF, floor",
    "awf-l2": "AWF, L2 ball",
    "awf-entropy": "AWF, entropy",
}

NETS = {"two-stream": "Two-stream", "stil": "Two-stream + STIL"}
FUSION_ROWS = {  # of stilt-fusion: how an arm's name ends, and its label after the net's
    "": "late average",
    "-weighted": "late average 1 : 1.5",
    "-early": "early (SVM)",
    "-awf-simplex": "AWF, simplex",
    "-awf-floor": "AWF, floor",
    "-awf-l2": "AWF, L2 ball",
    "-awf-entropy": "AWF, entropy",
    "-awf-train": "AWF, fitted on training scores",
}
OPTIMISTIC = (
    "eqs. 5-7 as printed, on videos that the streams have learned, of which each is nearly sure; "
    "the other AWF rows are fitted on held-out videos"
)
NO_MODEL = "published numbers alone, as there is no model of it here"
COMPARED = (  # in Table 6, with STILT itself
    TableRow(
        "attentional-pooling",
        "Girdhar et al. [11]",
        "girdhar",
        "ours sees RGB alone",
        space="comparators",
    ),
    TableRow(None, "Meng et al. [26]", "meng", NO_MODEL),
    TableRow("c3d", "C3D [6]", space="comparators"),
    TableRow("p3d-199", "P3D-199 [28]", space="comparators"),
    TableRow("two-stream-cnn-svm", "Two-stream CNN [30]", "two-stream-cnn", space="comparators"),
    TableRow(None, "TDD [37]", "tdd", NO_MODEL),
    TableRow("two-towers", "Two-stream fusion [10]", "two-stream-fusion", space="conv_fusion"),
    TableRow(
        "tsn-2",
        "TSN [38]",
        "tsn",
        "published with warped flow as a third modality, ours without",
        space="comparators",
    ),
    TableRow(None, "TSN Corrnnet [46]", "tsn-corrnet", NO_MODEL),
    TableRow(None, "MSM-ResNets [49]", "msm-resnets", NO_MODEL),
    TableRow("artnet", "ARTNet-Res18 [32]", "artnet-res18", space="comparators"),
    TableRow(None, "AMFNet-C [25]", "amfnet-c", NO_MODEL),
    TableRow(None, "RSTAN (TSN) [7]", "rstan-tsn", NO_MODEL),
)


@register_space("stilt")
def stilt() -> Space:
    """Returns the arms of Tables 4 to 6; searched: rate, attention dim, loss weights."""
    plain = {"interaction": False}
    return Space(
        name="stilt",
        title="STILT: co-attention between streams and adaptively weighted fusion (2022)",
        arms=(
            Arm(name="spatial", label="Spatial", model="stilt", options=plain, fusion="spatial"),
            Arm(name="temporal", label="Temporal", model="stilt", options=plain, fusion="temporal"),
            *_fusions("two-stream", plain),
            *_fusions("stil", {"interaction": True}),
            *(
                Arm(
                    name=f"{net}-awf-train",
                    label=f"{label} + AWF, fitted on training scores",
                    model="stilt",
                    options={"interaction": net == "stil"},
                    fusion="awf-train",
                    default=False,
                )
                for net, label in NETS.items()
            ),
            *(
                Arm(
                    name=f"stilt-{backbone}",
                    label=f"STILT ({backbone})",
                    model="stilt",
                    options={"interaction": True, "backbone": backbone},
                    fusion="awf-simplex",
                    default=False,
                )
                for backbone in ("vgg19", "resnet34", "resnet50")
            ),
        ),
        search_arm="stil-awf-simplex",
        parameters=(
            Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
            Choice(name="options.attention_dim", choices=(64, 128, 256, 512)),
            Real(name="loss_weights.spatial", low=0.5, high=2.0, log=True),
            Real(name="loss_weights.temporal", low=0.5, high=2.0, log=True),
        ),
        tables=_tables(),
        # Section 4.2, in epochs in place of its iterations (--recipe iterations). Ours: three
        # segments, tested in eight clips of as many, which are the field's 25 frames.
        settings=Settings(
            options={"backbone": "resnet50"},
            hyperparameters={
                "learning_rate": 1e-3,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 128,
                "schedule": "step",
                "milestones": (0.2, 0.4, 0.6, 0.8),
                "epochs": 100,
                "segments": 3,
                "test_segments": None,
                "test_clips": 8,
                "flow_length": 10,
            },
        ),
        iterations={"": (10_000, 50_000), "hmdb51": (5_000, 50_000)},
        variants={"embedded": _on_embedded},
    )


def _on_embedded(space: Space) -> Space:
    """Its attention learns from scratch on few clips, where the paper's starts from ImageNet.

    Which of two things moves how is learned last: no stream alone has a clue to it, so that its
    gradient starts near zero and grows with rate and steps. Clips of one segment make many small
    steps cheap; a clip's other segments show the same discs elsewhere, so that three at
    once, as it is tested, are only more cells to attend to.
    """
    settings = Settings(
        options={
            "head_dims": (),
            "dropout": 0.0,
            "attend_over": "cells",
            "attention_dropout": 0.0,
        },
        hyperparameters={
            "learning_rate": 0.03,
            "batch_size": 16,
            "epochs": 36,
            "segments": 1,
            "test_segments": 3,
            "test_clips": 1,
        },
    )
    return fit_to_embedded(space, settings)


def _fusions(name: str, options: dict[str, bool]) -> tuple[Arm, ...]:
    """One net under every fusion of its two streams."""
    label = NETS[name]
    average = Arm(name=name, label=label, model="stilt", options=options, fusion="average")
    return (
        average,
        *(
            Arm(
                name=f"{name}-{fusion}",
                label=f"{label} + {how}",
                model="stilt",
                options=options,
                fusion=fusion,
            )
            for fusion, how in FUSED.items()
        ),
    )


def _tables() -> tuple[Table, ...]:
    ablation = ("spatial", "temporal", "two-stream", "stil", "stil-awf-simplex")
    return (
        Table(
            name="stilt-4",
            title="STILT, Table 4: interaction learning and adaptively weighted fusion",
            rows=tuple(map(TableRow, ablation)),
        ),
        Table(
            name="stilt-5",
            title="STILT, Table 5: fusion strategies",
            rows=(
                TableRow("stil", "Two-stream + STIL + Late Ave"),
                TableRow("stil-early", "Two-stream + STIL + Early"),
                TableRow("stil-awf-simplex"),
            ),
        ),
        Table(
            name="stilt-6",
            title="STILT, Table 6: comparison with other systems",
            rows=(
                *COMPARED,
                TableRow("stilt-vgg19", "STILT(VGG-19)"),
                TableRow("stilt-resnet34", "STILT(ResNet-34)"),
                TableRow("stilt-resnet50", "STILT (ResNet-50)"),
            ),
            datasets=("ucf101", "hmdb51", "kinetics400"),
            note="each of the other systems is trained under the settings of its own space, and is "
            "tested against no arm of another",
        ),
        Table(
            name="stilt-fusion",
            title="STILT: both nets under every fusion (an ablation of ours)",
            rows=(
                *map(TableRow, ("spatial", "temporal")),
                *(
                    TableRow(
                        f"{net}{fusion}",
                        f"{label}, {how}",
                        note=OPTIMISTIC if fusion == "-awf-train" else "",
                    )
                    for net, label in NETS.items()
                    for fusion, how in FUSION_ROWS.items()
                ),
            ),
            ours=True,
        ),
    )
