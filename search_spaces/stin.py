"""STIN: spatial-temporal injection network.

Cao et al., "Spatial-temporal injection network: exploiting auxiliary losses for action recognition
with apparent difference and self-attention", Signal, Image and Video Processing, 2023. Its tables
aren't public; the arms are the choices that its abstract names.
"""

from collections.abc import Mapping
from typing import Any

from search_spaces.embedded import fit_to_embedded
from search_spaces.registry import register_space
from search_spaces.space import Arm, Choice, Real, Settings, Space, Table

__all__ = ["stin"]


@register_space("stin")
def stin() -> Space:
    """Returns losses and injection on and off; searched: rate, α, β, attention dim."""
    return Space(
        name="stin",
        title="STIN: apparent difference, self-attention and their auxiliary losses (2023)",
        arms=(
            _arm(
                "no-auxiliary",
                "No auxiliary loss",
                {"difference_loss": False, "attention_loss": False},
            ),
            _arm("difference-loss", "Apparent-difference loss alone", {"attention_loss": False}),
            _arm("attention-loss", "Self-attention loss alone", {"difference_loss": False}),
            _arm("stin", "Both losses (STIN)"),
            _arm("stin-spatial", "Both losses, spatial stream", fusion="spatial"),
            _arm("stin-temporal", "Both losses, temporal stream", fusion="temporal"),
            _arm(
                "pixel-difference",
                "Both losses, difference of pixels",
                {"difference": "pixels"},
            ),
            _arm("no-injection", "Injection off", {"injection": False}),
        ),
        search_arm="stin",
        parameters=(
            Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
            Real(
                name="loss_weights.apparent_difference",
                low=0.1,
                high=1.0,
                applies_to=(("difference_loss", (True,)),),
            ),
            Real(
                name="loss_weights.self_attention",
                low=0.1,
                high=1.0,
                applies_to=(("attention_loss", (True,)),),
            ),
            Choice(name="options.attention_dim", choices=(64, 128, 256, 512)),
        ),
        tables=(
            Table(
                name="stin",
                title="STIN: auxiliary losses and injection",
                datasets=("ucf101", "hmdb51"),
                note="no public number",
            ),
        ),
        # Ours: the paper's settings aren't public. Those of segment networks on these datasets.
        settings=Settings(
            options={"backbone": "resnet50", "partial_bn": True, "dropout": 0.8},
            hyperparameters={
                "learning_rate": 1e-3,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "batch_size": 128,
                "schedule": "step",
                "milestones": (0.4, 0.8),
                "epochs": 100,
                "clip_norm": 20.0,
                "segments": 3,
                "test_segments": None,
                "test_clips": 8,
                "flow_length": 10,
            },
        ),
        variants={"embedded": _on_embedded},
    )


def _on_embedded(space: Space) -> Space:
    options = {"partial_bn": False, "dropout": 0.0, "attention_dim": 64}
    return fit_to_embedded(space, Settings(options=options, hyperparameters={"test_clips": 1}))


def _arm(
    name: str, label: str, changed: Mapping[str, Any] | None = None, *, fusion: str = "average"
) -> Arm:
    """Returns an arm of the whole system, but for what is changed."""
    whole = {"difference_loss": True, "attention_loss": True}
    return Arm(
        name=name, label=label, model="stin", options={**whole, **(changed or {})}, fusion=fusion
    )
