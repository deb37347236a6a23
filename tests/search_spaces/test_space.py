import pytest

import search_spaces
from search_spaces import Arm, Settings
from search_spaces.space import Choice, Real, Space


def test_settings_read_dotted_names():
    settings = Settings.of(
        {
            "learning_rate": 0.1,
            "options.attention_dim": 128,
            "loss_weights.spatial": 2.0,
            "fusion_lambda": 0.5,
        }
    )
    assert settings == Settings(
        options={"attention_dim": 128},
        hyperparameters={"learning_rate": 0.1, "loss_weights": {"spatial": 2.0}},
        fusion_lambda=0.5,
    )


def test_updated_settings_merge_loss_weights_and_replace_the_rest():
    first = Settings.of({"loss_weights.spatial": 1.0, "scales": (1.0, 0.5), "options.a": 1})
    second = Settings.of({"loss_weights.temporal": 2.0, "scales": (1.0,)})
    assert first.updated(second) == Settings(
        options={"a": 1},
        hyperparameters={"loss_weights": {"spatial": 1.0, "temporal": 2.0}, "scales": (1.0,)},
    )


def test_an_arm_with_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="unknown fusion 'mean'; known are spatial, temporal"):
        Arm(name="a", label="a", model="stilt", fusion="mean")


@pytest.mark.parametrize(("low", "high", "log"), [(2.0, 1.0, False), (0.0, 1.0, True)])
def test_a_parameter_with_an_impossible_range_is_refused(low, high, log):
    with pytest.raises(ValueError, match=f"low={low}, high={high}"):
        Real(name="learning_rate", low=low, high=high, log=log)


def test_parameters_that_make_no_difference_to_an_arm_are_left_out():
    space = search_spaces.get("stilt")
    names = {
        arm: {parameter.name for parameter in space.parameters_for(space.arm(arm))}
        for arm in ("spatial", "stil", "stil-awf-l2")
    }
    assert "options.attention_dim" not in names["spatial"]
    assert "options.attention_dim" in names["stil"]
    assert "fusion_lambda" not in names["stil"]
    assert "fusion_lambda" in names["stil-awf-l2"]


def test_a_space_that_names_an_arm_twice_is_refused():
    arm = Arm(name="a", label="a", model="stilt")
    with pytest.raises(ValueError, match="names arms twice: a"):
        Space(
            name="s",
            title="",
            arms=(arm, arm),
            search_arm="a",
            parameters=(Choice(name="batch_size", choices=(1, 2)),),
            tables=(),
            settings=Settings(),
            embedded=Settings(),
        )


def test_unknown_spaces_and_arms_are_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="no space 'stilts'; there are stilt"):
        search_spaces.get("stilts")
    with pytest.raises(ValueError, match="no arm 'awf'; it has spatial, temporal"):
        search_spaces.get("stilt").arm("awf")
