from dataclasses import replace

import pytest

import search_spaces
from search_spaces import Arm, Settings, Space, Table, TableRow
from search_spaces.space import Choice, Real


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


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", True])
def test_a_lambda_that_no_fusion_can_take_is_refused_at_once(value):
    with pytest.raises(ValueError, match="fusion_lambda must be a number of at least 0, got"):
        Settings(fusion_lambda=value)
    with pytest.raises(ValueError, match="fusion_lambda must be"):
        Settings.of({"fusion_lambda": value})


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
        for arm in ("spatial", "stil")
    }
    assert "options.attention_dim" not in names["spatial"]
    assert "options.attention_dim" in names["stil"]


def test_lambda_is_not_searched_as_each_arms_is_chosen_from_stored_scores():
    space = search_spaces.get("stilt")
    searched = (*space.parameters, Real(name="fusion_lambda", low=0.1, high=1.0))
    with pytest.raises(ValueError, match=r"fusion_lambda is not searched, .* --set fusion_lambda="):
        replace(space, parameters=searched)


def test_a_space_that_names_an_arm_twice_is_refused():
    with pytest.raises(ValueError, match="names arms twice: a"):
        space_of("a", "a")


def space_of(*arms, tables=(), variants=None):
    return Space(
        name="s",
        title="A system",
        arms=tuple(Arm(name=name, label=name.upper(), model="stilt") for name in arms),
        search_arm=arms[0],
        parameters=(Choice(name="batch_size", choices=(1, 2)),),
        tables=tables,
        settings=Settings(),
        variants=variants or {},
    )


def test_a_space_without_tables_has_one_of_all_its_arms():
    (table,) = space_of("a", "b").tables
    assert (table.name, table.title, table.ours) == ("s", "A system", True)
    assert [(row.arm, row.label) for row in table.rows] == [("a", "A"), ("b", "B")]


def test_a_row_has_its_own_label_or_its_arms():
    rows = (TableRow("b"), TableRow("a", "a, as printed"), TableRow(None, "Other [1]", "other"))
    (table,) = space_of("a", "b", tables=(Table(name="t", title="", rows=rows),)).tables
    assert [(row.key, row.label) for row in table.rows] == [
        ("b", "B"),
        ("a", "a, as printed"),
        ("other", "Other [1]"),
    ]
    assert table.arms == {"a", "b"}


def test_the_key_of_a_published_number_is_the_arms_name_unless_the_row_says_otherwise():
    assert TableRow("a").published_key == "a"
    renamed = TableRow("a", published="printed-a")
    assert (renamed.key, renamed.published_key) == ("a", "printed-a")


def test_a_space_has_its_variant_on_the_dataset_that_it_names_and_once_only():
    def halved(space):
        size = space.settings.hyperparameters["batch_size"] // 2
        return replace(space, settings=Settings(hyperparameters={"batch_size": size}))

    space = replace(
        space_of("a", "b", variants={"small": halved}),
        settings=Settings(hyperparameters={"batch_size": 8}),
    )
    assert space.on("large") is space
    small = space.on("small")
    assert small.settings.hyperparameters == {"batch_size": 4}
    assert small.on("small") == small
    assert (small.tables, small.arms) == (space.tables, space.arms)


def test_an_arm_that_no_table_shows_is_refused():
    tables = (Table(name="t", title="", rows=(TableRow("a"),)),)
    with pytest.raises(ValueError, match="no table shows b, c; give each a row in one of t"):
        space_of("a", "b", "c", tables=tables)


def test_a_row_of_an_arm_that_the_space_lacks_is_refused():
    tables = (Table(name="t", title="", rows=(TableRow("a"), TableRow("z"))),)
    with pytest.raises(ValueError, match="table 't': there is no arm z; there are a, b"):
        space_of("a", "b", tables=tables)


def test_a_space_that_names_a_table_twice_is_refused():
    with pytest.raises(ValueError, match="names tables twice: t"):
        space_of("a", tables=(Table(name="t", title=""), Table(name="t", title="again")))


def test_a_row_of_nothing_is_refused():
    with pytest.raises(ValueError, match="without an arm needs its label and the name"):
        TableRow(None, "Other [1]")


@pytest.mark.parametrize(
    "rows",
    [
        (TableRow("a"), TableRow("a", "A again")),
        (TableRow("a"), TableRow(None, "A again", "a")),
        (TableRow("a"), TableRow("b", published="a")),
    ],
)
def test_a_table_with_a_row_twice_is_refused(rows):
    with pytest.raises(ValueError, match="table 't' has rows twice: a"):
        Table(name="t", title="", rows=rows)


def test_a_metric_that_no_row_of_results_has_is_refused():
    with pytest.raises(ValueError, match="one metric of top1, top5, mean_class_accuracy is needed"):
        Table(name="t", title="", metrics=("top1", "top3"))


def test_an_unknown_arm_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="no arm 'awf'; it has spatial, temporal"):
        search_spaces.get("stilt").arm("awf")
