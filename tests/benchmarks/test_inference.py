import numpy as np
import pytest

from benchmarks import inference
from benchmarks.inference import Case, draw, simulate, truth


@pytest.mark.parametrize("kind", ["equal", "easy"])
def test_what_is_drawn_has_the_accuracies_and_the_seed_effect_that_are_the_truth(kind):
    case = Case(kind, 400, 100, 2.0)
    rng = np.random.default_rng(1)
    drawn = [draw(case, rng) for _ in range(150)]
    accuracy = np.mean([one.correct.mean((1, 2)) for one in drawn], axis=0)
    assert accuracy == pytest.approx(drawn[0].designs, abs=0.01)
    networks = np.stack([one.networks for one in drawn])  # (R, A, K)
    assert networks.mean((0, 2)) == pytest.approx(drawn[0].designs, abs=0.004)
    assert networks[:, 0].std() == pytest.approx(0.02, rel=0.15)
    on_these = np.mean([one.on_these for one in drawn], axis=0)
    assert on_these == pytest.approx(drawn[0].designs, abs=0.01)


def test_the_truth_is_of_what_the_interval_is_about():
    rng = np.random.default_rng(2)
    drawn = draw(Case("equal", 60, 20, 2.0), rng)
    assert truth(Case("equal", 60, 20, 2.0), drawn, 2, 3) == pytest.approx(0.01)
    networks = drawn.networks[2, 0] - drawn.networks[0, 0]
    assert truth(Case("equal", 60, 20, 2.0), drawn, 2, 1) == pytest.approx(networks)
    few = draw(Case("equal", 60, 2, 2.0), rng)
    on_these = few.on_these[1] - few.on_these[0]
    assert truth(Case("equal", 60, 2, 2.0), few, 1, 3) == pytest.approx(on_these)


def test_arms_of_the_same_trainings_share_most_of_a_seeds_effect():
    rng = np.random.default_rng(3)
    case = Case("shared", 60, 20, 2.0)
    networks = np.stack([draw(case, rng).networks for _ in range(200)])
    difference = networks[:, 1] - networks[:, 0]
    assert difference.std() == pytest.approx(0.02 / 4, rel=0.15)


def test_what_a_file_has_is_not_simulated_again_and_processes_make_no_difference(tmp_path):
    wanted = [Case("equal", 60, 20, 1.0), Case("easy", 60, 20, 0.5), Case("family", 60, 20, 1.0)]
    simulate(wanted[:2], 3, tmp_path / "apart.csv", processes=2)
    before = (tmp_path / "apart.csv").read_text()
    found = simulate(wanted, 3, tmp_path / "apart.csv", processes=2)
    assert (tmp_path / "apart.csv").read_text().startswith(before)
    alone = [line for case in wanted for line in inference.simulated(case, 3)]
    assert found == alone == inference.read(tmp_path / "apart.csv")
    assert len(found) == len(wanted) * len(inference.SEEDS)
