"""STILT: spatial-temporal interaction learning two-stream network.

Liu et al., "Spatial-temporal interaction learning based two-stream network for action
recognition", Information Sciences, 2022: Tables 4 to 6, and the whole fusion ablation (both nets
under every fusion), which costs no training beyond the two of Table 4.
"""

from search_spaces.embedded import EMBEDDED
from search_spaces.space import Arm, Choice, Real, Settings, Space

__all__ = ["stilt"]

FUSED = {
    "weighted": "1 : 1.5 late average",
    "early": "Early (SVM)",
    "awf-simplex": "AWF",
    "awf-floor": "AWF, floor",
    "awf-l2": "AWF, L2 ball",
    "awf-entropy": "AWF, entropy",
}


def stilt() -> Space:
    """The arms of Tables 4 to 6; searched: learning rate, λ, attention dim, loss weights."""
    plain = {"interaction": False}
    return Space(
        name="stilt",
        title="STILT: co-attention between streams and adaptively weighted fusion (2022)",
        arms=(
            Arm(name="spatial", label="Spatial", model="stilt", options=plain, fusion="spatial"),
            Arm(name="temporal", label="Temporal", model="stilt", options=plain, fusion="temporal"),
            *_fusions("two-stream", "Two-stream", plain),
            *_fusions("stil", "Two-stream + STIL", {"interaction": True}),
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
            Real(name="fusion_lambda", low=1e-2, high=10.0, log=True),
            Choice(
                name="options.attention_dim",
                choices=(64, 128, 256, 512),
                applies_to=(("interaction", (True,)),),
            ),
            Real(name="loss_weights.spatial", low=0.5, high=2.0, log=True),
            Real(name="loss_weights.temporal", low=0.5, high=2.0, log=True),
        ),
        tables=("stilt-4", "stilt-5", "stilt-fusion"),
        # Section 4.2. The paper counts iterations: 50k, the rate divided by ten every 10k.
        settings=Settings(
            options={"backbone": "resnet50", "partial_bn": True},
            hyperparameters={
                "learning_rate": 1e-3,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 128,
                "schedule": "step",
                "milestones": (0.2, 0.4, 0.6, 0.8),
                "epochs": 100,
                "flow_length": 10,
            },
        ),
        # Its attention learns from scratch on few clips, where the paper's starts from ImageNet.
        embedded=EMBEDDED.updated(
            Settings(
                options={
                    "partial_bn": False,
                    "head_dims": (),
                    "dropout": 0.0,
                    "attend_over": "cells",
                    "attention_dim": 256,
                    "attention_dropout": 0.0,
                }
            )
        ),
    )


def _fusions(name: str, label: str, options: dict[str, bool]) -> tuple[Arm, ...]:
    """One net under every fusion of its two streams."""
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
