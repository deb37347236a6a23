import math

import numpy as np
import pytest
import torch

from models.layers.attention import AlternatingCoAttention, GuidedAttention, positional_encoding


def _by_hand(layer: GuidedAttention, features: np.ndarray, guidance: np.ndarray | None) -> tuple:
    """Equations 1–3 for one clip, one scalar at a time."""
    state = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    scores = []
    for k in features:
        score = 0.0
        for row in range(len(state["key.weight"])):
            h = sum(w * x for w, x in zip(state["key.weight"][row], k, strict=True))
            h += state["key.bias"][row]
            if guidance is not None:
                h += sum(
                    w * x for w, x in zip(state["guidance.weight"][row], guidance, strict=True)
                )
                h += state["guidance.bias"][row]
            score += state["score.weight"][0, row] * math.tanh(h)
        scores.append(score)
    total = sum(math.exp(score) for score in scores)
    weights = np.array([math.exp(score) / total for score in scores])
    attended = sum(a * k for a, k in zip(weights, features, strict=True))
    return attended, weights


@pytest.mark.parity("STILT", "guided attention (eqs. 1–3)")
@pytest.mark.parametrize("guided", [False, True])
def test_guided_attention_is_equations_1_to_3(guided: bool) -> None:
    torch.manual_seed(0)
    layer = GuidedAttention(5, 4 if guided else None, attention_dim=3, dropout=0.5).eval()
    features = torch.randn(2, 6, 5)
    guidance = torch.randn(2, 4) if guided else None
    attended, weights = layer(features, guidance)
    for clip in range(2):
        g = None if guidance is None else guidance[clip].numpy()
        o, a = _by_hand(layer, features[clip].numpy(), g)
        np.testing.assert_allclose(attended[clip].detach(), o, atol=1e-5)
        np.testing.assert_allclose(weights[clip].detach(), a, atol=1e-6)


@pytest.mark.parity("STILT", "alternating co-attention (Algorithm 1)")
@pytest.mark.parametrize("rounds", [1, 3])
def test_co_attention_alternates_as_algorithm_1(rounds: int) -> None:
    torch.manual_seed(1)
    layer = AlternatingCoAttention((5, 4), attention_dim=3, rounds=rounds, dropout=0.5).eval()
    spatial, temporal = torch.randn(2, 6, 5), torch.randn(2, 7, 4)
    attended, weights = layer(spatial, temporal)
    for clip in range(2):
        S, T = spatial[clip].numpy(), temporal[clip].numpy()
        s, a0 = _by_hand(layer.summarise, S, None)
        for _ in range(rounds):
            t, a_t = _by_hand(layer.attend_temporal, T, s)
            s, a_s = _by_hand(layer.attend_spatial, S, t)
        expected = {"summary": a0, "spatial": a_s, "temporal": a_t}
        for name, a in expected.items():
            np.testing.assert_allclose(weights[name][clip].detach(), a, atol=1e-6)
        np.testing.assert_allclose(attended["spatial"][clip].detach(), s, atol=1e-5)
        np.testing.assert_allclose(attended["temporal"][clip].detach(), t, atol=1e-5)


def test_each_step_has_weights_of_its_own_and_rounds_share_them() -> None:
    def sizes(rounds: int) -> dict[str, int]:
        layer = AlternatingCoAttention((5, 4), attention_dim=3, rounds=rounds, dropout=0.0)
        return {name: value.numel() for name, value in layer.named_parameters()}

    assert sizes(1) == sizes(4)
    # Keys and biases, guidance and biases, scores: step 1 has no guidance.
    assert sum(sizes(1).values()) == (15 + 3 + 3) + (12 + 3 + 15 + 3 + 3) + (15 + 3 + 12 + 3 + 3)


def test_dropout_follows_the_tanh_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = GuidedAttention(5, None, attention_dim=64, dropout=0.5)
    features = torch.randn(1, 6, 5)
    first, second = layer(features)[1], layer(features)[1]
    assert not torch.equal(first, second)
    hidden = torch.tanh(layer.key(features))
    torch.manual_seed(3)
    dropped = torch.nn.functional.dropout(hidden, 0.5)
    torch.manual_seed(3)
    expected = (dropped @ layer.score.weight[0]).softmax(dim=1)
    torch.testing.assert_close(layer(features)[1], expected)
    layer.eval()
    assert torch.equal(layer(features)[1], layer(features)[1])


def test_attention_to_one_feature_is_that_feature() -> None:
    layer = AlternatingCoAttention((5, 4), attention_dim=3, rounds=2, dropout=0.0)
    spatial, temporal = torch.randn(3, 1, 5), torch.randn(3, 1, 4)
    attended, weights = layer(spatial, temporal)
    torch.testing.assert_close(attended["spatial"], spatial[:, 0])
    torch.testing.assert_close(attended["temporal"], temporal[:, 0])
    for rows in weights.values():
        torch.testing.assert_close(rows, torch.ones(3, 1))


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 7.0])
def test_sharpness_is_the_scale_of_the_scores_at_the_start(sharpness: float) -> None:
    torch.manual_seed(0)
    layer = GuidedAttention(5, None, attention_dim=4096, dropout=0.0, sharpness=sharpness)
    signs = torch.where(torch.rand(200, 4096) < 0.5, -1.0, 1.0)
    assert (signs @ layer.score.weight[0]).std().item() == pytest.approx(sharpness, rel=0.15)


def test_positional_encodings_are_sines_and_cosines_of_the_cells_centres() -> None:
    code = positional_encoding(2, 3, frequencies=2, like=torch.zeros(0))
    assert code.shape == (6, 8)
    for row in range(2):
        for column in range(3):
            y, x = (row + 0.5) / 2, (column + 0.5) / 3
            expected = [
                wave(math.pi * rate * place)
                for place in (y, x)
                for wave in (math.sin, math.cos)
                for rate in (1, 2)
            ]
            np.testing.assert_allclose(code[3 * row + column], expected, atol=1e-6)


def test_positional_encodings_differ_between_all_cells_of_a_large_map() -> None:
    code = positional_encoding(14, 14, frequencies=3, like=torch.zeros(0))
    distances = torch.cdist(code, code) + torch.eye(196)
    assert distances.min() > 0.1
