"""A predicted Hessian as what it is, 3×3 blocks on a pair graph, and everything that is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hip_ext.pairs import PairGraph

if TYPE_CHECKING:
    from scipy.sparse import bsr_array


@dataclass(frozen=True)
class HessianBlocks:
    """Second derivatives of a batch of structures, eV/Å².

    For a pair p = (i, j, S) of the graph, `pair[p]` is ∂²E/∂r_i ∂r_jS, the image of j included; the block of the
    reversed pair is its transpose. `diagonal[i]` is ∂²E/∂r_i². The Γ-point matrix of a periodic structure sums each
    pair over its images, and an atom's pairs with its own images fall on its diagonal.

    Attributes:
        pair: [P, 3, 3].
        diagonal: [N, 3, 3], symmetric.
        graph: the pairs.
        ptr: atoms of structure b are ptr[b] to ptr[b + 1], int64 [B + 1].
    """

    pair: Tensor
    diagonal: Tensor
    graph: PairGraph
    ptr: Tensor

    @property
    def sizes(self) -> list[int]:
        """Atoms of each structure."""
        bounds: list[int] = self.ptr.tolist()
        return [b - a for a, b in pairwise(bounds)]

    def dense(self) -> Tensor:
        """The symmetric matrix of one structure, [3N, 3N]; for a batch see `dense_list`.

        Raises:
            ValueError: the blocks belong to several structures.
        """
        if len(self.ptr) != 2:
            raise ValueError(f"dense() is for one structure, found {len(self.ptr) - 1}: use dense_list()")
        return self.dense_list()[0]

    def dense_list(self) -> list[Tensor]:
        """The symmetric matrix of every structure, each [3n, 3n]."""
        return [part.view(3 * n, 3 * n) for n, part in zip(self.sizes, self._flat_parts(), strict=True)]

    def flat(self) -> Tensor:
        """All matrices row by row, one structure after the other, [Σ (3n)²]: the order of HORM's `hessian` field."""
        return torch.cat(self._flat_parts())

    def matvec(self, vector: Tensor) -> Tensor:
        """H·v without forming H.

        Args:
            vector: [N, 3] or [N, 3, K], over the atoms of the whole batch.

        Returns:
            The product, of the same shape.
        """
        v = vector if vector.dim() == 3 else vector[:, :, None]
        i, j = self.graph.first, self.graph.second
        out = self.diagonal @ v
        out = out.index_add(0, i, self.pair @ v[j]).index_add(0, j, self.pair.transpose(1, 2) @ v[i])
        return out if vector.dim() == 3 else out.squeeze(2)

    def to_torch_bsr(self) -> Tensor:
        """One block-sparse matrix over the whole batch, [3N, 3N], torch.sparse_bsr with 3×3 blocks."""
        pointers, columns, values = self._compressed_rows()
        n = 3 * self.diagonal.shape[0]
        return torch.sparse_bsr_tensor(pointers, columns, values, size=(n, n))

    def to_scipy_bsr(self) -> bsr_array:
        """One block-sparse matrix over the whole batch, [3N, 3N], `scipy.sparse.bsr_array` with 3×3 blocks."""
        from scipy.sparse import bsr_array

        pointers, columns, values = (x.detach().cpu().numpy() for x in self._compressed_rows())
        n = 3 * self.diagonal.shape[0]
        return bsr_array((values, columns, pointers), shape=(n, n))

    def to(self, dtype: torch.dtype) -> HessianBlocks:
        """The same blocks in another floating-point type."""
        return HessianBlocks(self.pair.to(dtype), self.diagonal.to(dtype), self.graph, self.ptr)

    def _flat_parts(self) -> list[Tensor]:
        sizes = self.ptr[1:] - self.ptr[:-1]
        squares = 9 * sizes * sizes
        offset = squares.cumsum(0) - squares
        atoms = torch.arange(self.diagonal.shape[0], device=self.ptr.device)
        system = torch.repeat_interleave(torch.arange(len(sizes), device=self.ptr.device), sizes)
        i, j = self.graph.first, self.graph.second
        row, column = torch.cat((atoms, i, j)), torch.cat((atoms, j, i))
        start = self.ptr[system[row]]
        width = 3 * sizes[system[row]]
        corner = offset[system[row]] + 3 * (row - start) * width + 3 * (column - start)
        step = torch.arange(3, device=self.ptr.device)
        place = corner[:, None, None] + step[None, :, None] * width[:, None, None] + step
        values = self._values()
        flat = values.new_zeros(sum(9 * n * n for n in self.sizes)).index_add(0, place.flatten(), values.flatten())
        return list(flat.split([9 * n * n for n in self.sizes]))

    def _values(self) -> Tensor:
        """The diagonal, the pairs and the reversed pairs, [N + 2P, 3, 3]."""
        # An atom's pair with its own image comes as the symmetric half of itself and its reverse: added to one block
        # in any order, such terms leave it symmetric to the last digit.
        own = (self.graph.first == self.graph.second)[:, None, None]
        pair = torch.where(own, (self.pair + self.pair.transpose(1, 2)) / 2, self.pair)
        return torch.cat((self.diagonal, pair, pair.transpose(1, 2)))

    def _compressed_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row pointers, columns and values of the block matrix, images of a pair summed, sorted by row and column."""
        n = self.diagonal.shape[0]
        atoms = torch.arange(n, device=self.ptr.device)
        i, j = self.graph.first, self.graph.second
        key = torch.cat((atoms, i, j)) * n + torch.cat((atoms, j, i))
        values = self._values()
        unique, inverse = torch.unique(key, return_inverse=True)
        summed = values.new_zeros(len(unique), 3, 3).index_add(0, inverse, values)
        counts = torch.bincount(unique // n, minlength=n)
        return torch.cat((counts.new_zeros(1), counts.cumsum(0))), unique % n, summed
