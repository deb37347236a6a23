"""All systems and comparators under one protocol, each with a search of its own."""

from collections.abc import Sequence
from dataclasses import replace

from search_spaces.attention_consistency import attention_consistency
from search_spaces.comparators import FINAL, VOLUMES, comparators
from search_spaces.conv_fusion import conv_fusion
from search_spaces.cstm import cstm
from search_spaces.embedded import EMBEDDED
from search_spaces.registry import register_space
from search_spaces.space import Arm, Parameter, Real, Settings, Space, Table
from search_spaces.stilt import stilt
from search_spaces.stin import stin

__all__ = ["all_systems", "final_arms"]

# How many frames a clip has belongs to a system; how they are taken and cropped, and how it is
# trained, is the protocol's.
CLIP = ("segments", "test_segments", "test_clips")
OF_A_BACKBONE = ("backbone", "partial_bn")  # options that the comparators' settings name
OF_A_FUSED_NET = ("layers", "freeze_towers")  # options that a tower alone doesn't have


def final_arms() -> tuple[tuple[Space, str, str], ...]:
    """Returns each system's final form: its own space, the arm's name there, its label."""
    others = comparators()
    return (
        (stilt(), "stil-awf-simplex", "STILT"),
        (stin(), "stin", "STIN"),
        (conv_fusion(), "two-towers", "Convolutional fusion"),
        (attention_consistency(), "attention-consistency", "Attention consistency"),
        (cstm(), "cstm", "CSTM"),
        *((others, name, label) for name, label in FINAL.items()),
    )


@register_space("all")
def all_systems() -> Space:
    """Returns one arm of each, its final form; searched: rate, weight decay, own loss weights."""
    spaces = final_arms()
    return Space(
        name="all",
        title="All systems under one protocol: same data, epochs and search budget",
        arms=tuple(_arm(space, name, label) for space, name, label in spaces),
        search_arm="stilt",
        parameters=(
            Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
            Real(name="weight_decay", low=1e-5, high=1e-2, log=True),
            *_loss_weights(*(space for space, _, _ in spaces[:5])),
        ),
        tables=(
            Table(
                name="all",
                title="All systems under one protocol (ours)",
                ours=True,
                note="a comparison of ours under one protocol",
            ),
        ),
        # Ours, as for the comparators.
        settings=Settings(hyperparameters=comparators().settings.hyperparameters),
        variants={"embedded": _on_embedded},
    )


def _on_embedded(space: Space) -> Space:
    """Each arm is as on the embedded dataset in its own space, which says its backbone too."""
    small = Settings(hyperparameters=EMBEDDED.hyperparameters)
    return replace(
        space,
        arms=tuple(_arm(own.on("embedded"), name, label) for own, name, label in final_arms()),
        settings=space.settings.updated(small),
    )


def _arm(space: Space, name: str, label: str) -> Arm:
    """Returns an arm with all of its own space's options, so that only the protocol is shared."""
    own_name = label.lower().replace(" ", "-").replace("(2+1)", "2plus1")
    return replace(_with_options(space, space.arm(name)), name=own_name, label=label)


def _with_options(space: Space, arm: Arm, *, without: Sequence[str] = ()) -> Arm:
    own = _own(space, arm, without=(*without, *(OF_A_BACKBONE if arm.model in VOLUMES else ())))
    towers = arm.starts_from.items()
    return replace(
        arm,
        options=own.options,
        hyperparameters=own.hyperparameters,
        starts_from={
            given: _with_options(space, tower, without=OF_A_FUSED_NET) for given, tower in towers
        },
    )


def _own(space: Space, arm: Arm, *, without: Sequence[str]) -> Settings:
    own = space.settings.updated(arm.own)
    return Settings(
        options={key: value for key, value in own.options.items() if key not in without},
        hyperparameters={
            **{k: v for k, v in space.settings.hyperparameters.items() if k in CLIP},
            **{k: v for k, v in arm.hyperparameters.items() if k != "test_crops"},
        },
    )


def _loss_weights(*spaces: Space) -> tuple[Parameter, ...]:
    """Returns the weights of the losses that make a system what it is."""
    found = {
        parameter.name: parameter
        for space in spaces
        for parameter in space.parameters
        if parameter.name.startswith("loss_weights.") and parameter.applies_to
    }
    return tuple(found.values())
