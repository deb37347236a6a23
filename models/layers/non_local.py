"""Self-attention over the cells of a feature map.

Wang et al., "Non-local neural networks", CVPR 2018.
"""

from typing import cast

from torch import Tensor, nn

__all__ = ["NonLocal"]


class NonLocal(nn.Module):
    """The embedded-Gaussian form: y_i = W_z Σ_j softmax_j(θ(x_i)·φ(x_j) / √A) g(x_j).

    As in the authors' code, the products are divided by the root of the embeddings' size A, weights
    start from normal values of standard deviation 0.01, and biases from zero. The residual sum
    x + y is left to the caller.

    Args:
        channels: C of the map.
        attention_dim: Channels of θ, φ and g.
    """

    def __init__(self, channels: int, attention_dim: int) -> None:
        super().__init__()
        self.query = nn.Conv1d(channels, attention_dim, 1)
        self.key = nn.Conv1d(channels, attention_dim, 1)
        self.value = nn.Conv1d(channels, attention_dim, 1)
        self.out = nn.Conv1d(attention_dim, channels, 1)
        for conv in (self.query, self.key, self.value, self.out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, conv.bias))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lets every cell attend to all.

        Args:
            x: n cells, ``(B, C, n)``.

        Returns:
            y, ``(B, C, n)``, and the attention that each cell receives, averaged over the cells
            that give it, ``(B, n)``; it sums to one.
        """
        query, key = self.query(x), self.key(x)  # (B, A, n)
        similarity = query.transpose(1, 2) @ key / key.shape[1] ** 0.5  # (B, n, n)
        weights = similarity.softmax(dim=-1)  # row i: what cell i attends to
        attended = self.value(x) @ weights.transpose(1, 2).to(x.dtype)  # (B, A, n)
        return self.out(attended), weights.mean(dim=1)
