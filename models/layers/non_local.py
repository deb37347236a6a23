"""Self-attention over the cells of a feature map.

Wang et al., "Non-local neural networks", CVPR 2018.
"""

from torch import Tensor, nn

__all__ = ["NonLocal"]


class NonLocal(nn.Module):
    """The embedded-Gaussian form: y_i = W_z Σ_j softmax_j(θ(x_i)·φ(x_j)) g(x_j).

    The residual sum x + y is left to the caller.

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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lets every cell attend to all.

        Args:
            x: n cells, ``(B, C, n)``.

        Returns:
            y, ``(B, C, n)``, and the attention that each cell receives, averaged over the cells
            that give it, ``(B, n)``; it sums to one.
        """
        similarity = self.query(x).transpose(1, 2) @ self.key(x)  # (B, n, n)
        weights = similarity.softmax(dim=-1)  # row i: what cell i attends to
        attended = self.value(x) @ weights.transpose(1, 2).to(x.dtype)  # (B, A, n)
        return self.out(attended), weights.mean(dim=1)
