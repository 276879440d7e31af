"""Rows that belong to several sequences: the samples of a batch, or the windows of a voxel grid.

Rows are taken with `index_select`, whose gradient a GPU adds up all at once; that of `x[rows]` goes one by one through
rows that are taken often.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """Which row of an [N, ...] tensor belongs to which of B sequences; built once per structure.

    owner: [N] int64, the sequence of each row, 0..B-1, none empty.
    count: B.
    rows:  [B, longest] int64, the rows of each sequence (unused places hold 0), or None if the sequences are
           equally long and laid end to end, so that padding is a mere change of shape.
    mask:  [B, 1, 1, longest] bool, the places in use, or None if all are.
    place: [N] int64, where each row stands in the flattened `rows`, or None like `rows`.
    """

    owner: Tensor
    count: int
    rows: Tensor | None
    mask: Tensor | None
    place: Tensor | None

    @staticmethod
    def of(owner: Tensor) -> Segments:
        """Segments from the owner of each row [N]; rows of one sequence need not be neighbours."""
        lengths = torch.bincount(owner)
        count, longest = len(lengths), int(lengths.max())
        equal = bool((lengths == longest).all())
        if equal and bool((owner.diff() >= 0).all()):
            return Segments(owner, count, None, None, None)
        order = torch.argsort(owner, stable=True)
        starts = lengths.cumsum(0) - lengths
        column = torch.arange(len(owner), device=owner.device) - starts[owner[order]]
        rows = torch.zeros(count, longest, dtype=torch.int64, device=owner.device)
        rows[owner[order], column] = order
        place = torch.empty_like(owner)
        place[order] = owner[order] * longest + column
        mask = torch.arange(longest, device=owner.device) < lengths[:, None]
        return Segments(owner, count, rows, None if equal else mask[:, None, None], place)

    @staticmethod
    def dense(count: int, length: int, device: torch.device) -> Segments:
        """`count` sequences of `length` rows each, end to end."""
        owner = torch.arange(count, device=device).repeat_interleave(length)
        return Segments(owner, count, None, None, None)

    def pad(self, x: Tensor) -> Tensor:
        """[N, ...] -> [B, longest, ...]; unused places repeat row 0."""
        rows = x if self.rows is None else x.index_select(0, self.rows.flatten())
        padded: Tensor = rows.unflatten(0, (self.count, -1))
        return padded

    def unpad(self, x: Tensor) -> Tensor:
        """[B, longest, ...] -> [N, ...], the inverse of `pad`."""
        flat = x.flatten(0, 1)
        return flat if self.place is None else flat.index_select(0, self.place)

    def spread(self, values: Tensor) -> Tensor:
        """A value per sequence [B, C] -> its rows' values [N, C], or [1, C] where B is 1 and broadcasting does."""
        if self.count == 1:
            return values
        # In float32, so that gradients are: in half precision, sums of thousands stop where the next is too small.
        return values.float().index_select(0, self.owner).to(values.dtype)
