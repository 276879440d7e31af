"""Several sequences packed into the rows of one tensor: the samples of a batch, or the windows of a voxel grid.

Rows are taken with `index_select`, whose gradient a GPU adds up in parallel; that of `x[rows]` is serialised for rows
that are taken often.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """The assignment of the rows of an [N, ...] tensor to B sequences; built once per structure.

    segment_ids: [N] int64, the sequence of each row, 0..B-1; no sequence is empty.
    count:       B.
    pad_index:   [B, longest] int64, the row at each place of the padded layout (unused places hold 0), or None if the
                 sequences are equally long and laid end to end, so that padding is a mere change of shape.
    mask:        [B, 1, 1, longest] bool, the places in use, or None if all are.
    unpad_index: [N] int64, the place of each row in the flattened padded layout, or None like `pad_index`.
    """

    segment_ids: Tensor
    count: int
    pad_index: Tensor | None
    mask: Tensor | None
    unpad_index: Tensor | None

    @staticmethod
    def of(segment_ids: Tensor) -> "Segments":
        """Build segments from the sequence of each row [N]; the rows of a sequence need not be adjacent."""
        lengths = torch.bincount(segment_ids)
        count, longest = len(lengths), int(lengths.max())
        equal = bool((lengths == longest).all())
        if equal and bool((segment_ids.diff() >= 0).all()):
            return Segments(segment_ids, count, None, None, None)
        order = torch.argsort(segment_ids, stable=True)
        sorted_ids = segment_ids[order]
        starts = lengths.cumsum(0) - lengths
        column = torch.arange(len(segment_ids), device=segment_ids.device) - starts[sorted_ids]
        pad_index = torch.zeros(count, longest, dtype=torch.int64, device=segment_ids.device)
        pad_index[sorted_ids, column] = order
        unpad_index = torch.empty_like(segment_ids)
        unpad_index[order] = sorted_ids * longest + column
        mask = torch.arange(longest, device=segment_ids.device) < lengths[:, None]
        return Segments(segment_ids, count, pad_index, None if equal else mask[:, None, None], unpad_index)

    @staticmethod
    def dense(count: int, length: int, device: torch.device) -> "Segments":
        """Build `count` segments of `length` rows each, laid end to end."""
        segment_ids = torch.arange(count, device=device).repeat_interleave(length)
        return Segments(segment_ids, count, None, None, None)

    def pad(self, x: Tensor) -> Tensor:
        """Pad the sequences to the same length: [N, ...] -> [B, longest, ...]; unused places repeat row 0."""
        rows = x if self.pad_index is None else x.index_select(0, self.pad_index.flatten())
        return rows.unflatten(0, (self.count, -1))

    def unpad(self, x: Tensor) -> Tensor:
        """Undo `pad`: [B, longest, ...] -> [N, ...]."""
        flat = x.flatten(0, 1)
        return flat if self.unpad_index is None else flat.index_select(0, self.unpad_index)

    def broadcast(self, values: Tensor) -> Tensor:
        """Give each row the value of its sequence: [B, C] -> [N, C], or [1, C] where B is 1."""
        if self.count == 1:
            return values
        # In float32 for the gradients: in half precision, sums over thousands of rows stop growing.
        return values.float().index_select(0, self.segment_ids).to(values.dtype)
