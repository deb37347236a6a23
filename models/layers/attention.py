"""Attention between streams and positional encodings of what is attended.

Co-attention is that of hierarchical question–image co-attention (Lu et al., NeurIPS 2016), as
the spatial-temporal interaction learning network (Liu et al., Information Sciences 2022) uses it.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["AlternatingCoAttention", "GuidedAttention", "positional_encoding"]


class GuidedAttention(nn.Module):
    """Attends to n features under the guidance of one vector (Liu et al., eqs. 1–3).

    H = tanh(W_k K + (W_g g) 1ᵀ), a = softmax(w_hᵀ H), o = Σ a_i k_i.

    Both maps have a bias, and dropout follows the tanh, as in Lu et al.; w_h has none, because
    the softmax doesn't see it. Without guidance (g = 0) there is no W_g.

    Args:
        num_features: Size D of each feature k_i.
        guidance_features: Size of g; None when there is no guidance.
        attention_dim: Rows of H.
        dropout: Probability of dropping an element of H.
        sharpness: w_h starts from normal values of the variance sharpness² / attention_dim, so
            that it is the scale of the scores at the start (ours).
    """

    def __init__(
        self,
        num_features: int,
        guidance_features: int | None,
        *,
        attention_dim: int,
        dropout: float,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        self.key = nn.Linear(num_features, attention_dim)
        self.guidance = None
        if guidance_features is not None:
            self.guidance = nn.Linear(guidance_features, attention_dim)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(attention_dim, 1, bias=False)
        nn.init.normal_(self.score.weight, std=sharpness / math.sqrt(attention_dim))

    def forward(self, features: Tensor, guidance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attends to ``features``.

        Args:
            features: K, ``(B, n, D)``.
            guidance: g, ``(B, D_g)``; None when the layer has no guidance.

        Returns:
            The attended vector o, ``(B, D)``, and the weights a, ``(B, n)``.
        """
        hidden = self.key(features)  # (B, n, A)
        if self.guidance is not None and guidance is not None:
            hidden = hidden + self.guidance(guidance).unsqueeze(1)
        scores = self.score(self.dropout(torch.tanh(hidden))).squeeze(-1)  # (B, n)
        weights = scores.softmax(dim=1)
        # The softmax is float32 under autocast.
        attended = torch.einsum("bn,bnd->bd", weights.to(features.dtype), features)
        return attended, weights


class AlternatingCoAttention(nn.Module):
    """Lets the two streams attend to each other in turn (Liu et al., §3.2 and Algorithm 1).

    Three steps with weights of their own: the spatial features are summarised without guidance;
    the temporal features are attended under that summary; the spatial features are attended
    under the attended temporal vector. More rounds repeat the last two steps, each starting from
    the spatial vector before it. That rounds share their weights is our reading of "repeat" in
    Algorithm 1; its first uniform summary is replaced by the equations' step 1.

    Args:
        num_features: Size of a spatial and of a temporal feature.
        attention_dim: Hidden size of each attention.
        rounds: Times that steps 2 and 3 are done, one or more.
        dropout: Dropout after each tanh.
        sharpness: Scale of the scores at the start.
    """

    def __init__(
        self,
        num_features: tuple[int, int],
        *,
        attention_dim: int,
        rounds: int,
        dropout: float,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        spatial, temporal = num_features

        def attention(features: int, guidance: int | None) -> GuidedAttention:
            return GuidedAttention(
                features,
                guidance,
                attention_dim=attention_dim,
                dropout=dropout,
                sharpness=sharpness,
            )

        self.summarise = attention(spatial, None)
        self.attend_temporal = attention(temporal, spatial)
        self.attend_spatial = attention(spatial, temporal)
        self.rounds = rounds

    def forward(
        self, spatial: Tensor, temporal: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Attends to both streams.

        Args:
            spatial: ``(B, n, D_s)``.
            temporal: ``(B, m, D_t)``; n and m may differ.

        Returns:
            The attended vectors by stream, ``(B, D_s)`` and ``(B, D_t)``; and the weights by
            step, ``summary`` and ``spatial`` ``(B, n)``, ``temporal`` ``(B, m)``, those of the
            last round.
        """
        attended_s, summary = self.summarise(spatial)
        for _ in range(self.rounds):
            attended_t, weights_t = self.attend_temporal(temporal, attended_s)
            attended_s, weights_s = self.attend_spatial(spatial, attended_t)
        return (
            {"spatial": attended_s, "temporal": attended_t},
            {"summary": summary, "spatial": weights_s, "temporal": weights_t},
        )


def positional_encoding(height: int, width: int, *, frequencies: int, like: Tensor) -> Tensor:
    """Returns sines and cosines of each cell's position.

    The position is the cell's centre, 0 to 1 down and across; frequency k has 2ᵏ half periods over
    the map, so that the encoding means the same position in maps of any size.

    Args:
        height: Cells h.
        width: Cells w.
        frequencies: Number F of frequencies.
        like: A tensor of the wanted dtype and device.

    Returns:
        ``(h·w, 4F)``, row by row.
    """
    rates = math.pi * 2.0 ** torch.arange(frequencies, device=like.device)  # (F,)
    down = (torch.arange(height, device=like.device) + 0.5) / height
    across = (torch.arange(width, device=like.device) + 0.5) / width
    down = (down[:, None] * rates)[:, None].expand(height, width, frequencies)
    across = (across[:, None] * rates)[None].expand(height, width, frequencies)
    encoding = torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], dim=-1)
    return encoding.flatten(0, 1).to(like.dtype)
