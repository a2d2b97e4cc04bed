"""Where scalars, vectors and l = 2 components are in what a layer of MACE returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hip_ext.features import Parity, Widths


@dataclass(frozen=True)
class MessageLayout:
    """The layout of one layer's message of C channels and K components, of all its degrees.

    Attributes:
        channels: C.
        columns: the first of the K components of each degree up to 2 that the message has.
        components_first: whether the message is [N, K, C], cuEquivariance's "ir_mul", rather than [N, C, K].
    """

    channels: int
    columns: dict[int, int]
    components_first: bool = False

    @classmethod
    def of(cls, layer: Any, parity: Parity) -> MessageLayout:
        """Reads the layout off an interaction block, whose last step is a `reshape_irreps`.

        Degrees of natural parity, (−1)^l, are taken; a MACE without parity calls all degrees even.
        """
        columns, start = {}, 0
        for _, irrep in layer.target_irreps:
            natural = 1 if parity == "so3" else (-1) ** irrep.l
            if irrep.l <= 2 and irrep.p == natural:
                columns[irrep.l] = start
            start += irrep.dim
        config = getattr(layer.reshape, "cueq_config", None)
        return cls(layer.target_irreps[0].mul, columns, config is not None and config.layout_str == "ir_mul")

    @property
    def widths(self) -> Widths:
        """Channels per degree, (C0, C1, C2): C, or 0 for a degree that the message does not have."""
        c0, c1, c2 = (self.channels if degree in self.columns else 0 for degree in range(3))
        return c0, c1, c2

    def split(self, message: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The degrees 0, 1 and 2 of a message, [N, C0, 1], [N, C1, 3] and [N, C2, 5]."""
        if self.components_first:
            message = message.transpose(1, 2)

        def block(degree: int) -> Tensor:
            width = 2 * degree + 1
            if degree not in self.columns:
                return message.new_zeros(message.shape[0], 0, width)
            return message[:, :, self.columns[degree] : self.columns[degree] + width]

        return block(0), block(1), block(2)
