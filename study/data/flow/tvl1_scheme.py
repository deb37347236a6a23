"""What the solvers of TV-L1 flow have in common: the pyramid, the steps and how much is done."""

from dataclasses import dataclass

__all__ = ["DUAL_STEP", "PRIMAL_STEP", "RELAXATION", "Scheme"]

PRIMAL_STEP = 0.25  # times DUAL_STEP times |∇|² = 8 must not exceed 1
DUAL_STEP = 0.5
RELAXATION = 1.7  # in [1, 2)
SMALLEST_SIDE = 16  # pixels; pyramids end at it, as OpenCV's do


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How `study.data.flow.tvl1` and `study.data.flow.tvl1_torch` solve the functional.

    Attributes:
        lambda_: Weight of the data term, for intensities in 0..255.
        theta: Width of the data term's quadratic part; towards 0 it becomes the plain L1.
        scales: Levels of the pyramid at most.
        scale_step: Size of a level relative to the finer one.
        warps: Linearisations at each level at most.
        iterations: Primal-dual iterations at each warp.
        epsilon: Root mean square change of the flow, in pixels, under which a level's warps end.
    """

    lambda_: float
    theta: float
    scales: int
    scale_step: float
    warps: int
    iterations: int
    epsilon: float

    @property
    def clip(self) -> float:
        """What a data step is clipped at, times the gradient."""
        return (PRIMAL_STEP + self.theta) * self.lambda_

    @property
    def pull(self) -> float:
        """The part of a data step that remains after minimising over the auxiliary flow."""
        return PRIMAL_STEP / (PRIMAL_STEP + self.theta)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns height and width of the pyramid's levels, finest first."""
        sizes = [(height, width)]
        while len(sizes) < self.scales:
            smaller = round(sizes[-1][0] * self.scale_step), round(sizes[-1][1] * self.scale_step)
            if min(smaller) < SMALLEST_SIDE:
                break
            sizes.append(smaller)
        return sizes
