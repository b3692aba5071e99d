"""A table of what was computed for each example, in memory up to a number of bytes."""

import torch
from torch import Tensor


class FeatureTable:
    """Keeps the features of examples by row, in the precision and on the device that they come in.

    All lie in one tensor, one example behind the other. So texts of different lengths waste no memory on padding.

    Args:
        most_bytes: The size that the tensor never exceeds. Examples beyond it are not kept.

    Attributes:
        is_full: Whether an example was not kept.
    """

    def __init__(self, most_bytes: float) -> None:
        self.is_full = False
        self._most_bytes = most_bytes
        self._steps: Tensor | None = None  # [steps, ...], those in use first
        self._used = 0
        self._starts = torch.zeros(0, dtype=torch.int64)  # by row, -1 where there is none
        self._lengths = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        """Counts the examples."""
        return int((self._starts >= 0).sum())

    def knows(self, rows: Tensor) -> Tensor:
        """Says which rows are kept.

        Args:
            rows: int64 [batch], on the CPU.

        Returns:
            bool [batch].
        """
        is_within = rows < len(self._starts)
        if not is_within.any():
            return is_within
        return is_within & (self._starts[rows.masked_fill(~is_within, 0)] >= 0)

    def store(self, rows: Tensor, features: Tensor, lengths: Tensor) -> None:
        """Keeps the features of rows that are not known, as many as there is room for.

        Args:
            rows: int64 [batch], on the CPU.
            features: float [batch, time, ...].
            lengths: int64 [batch], on the CPU: the steps of each row that mean something, from 1 to time.
        """
        place_of = {row: place for place, row in enumerate(rows.tolist())}  # a batch may have an example twice
        new = torch.tensor([*place_of.values()], dtype=torch.int64)
        new = new[~self.knows(rows[new])]
        rows, features, lengths = rows[new], features[new.to(features.device)], lengths[new]
        most_steps = int(self._most_bytes // (features.element_size() * features.shape[2:].numel()))
        ends = self._used + lengths.cumsum(0)
        has_room = ends <= most_steps
        if not has_room.all():
            self.is_full = True
            rows, lengths, ends = rows[has_room], lengths[has_room], ends[has_room]
            features = features[: len(rows)]
        if not len(rows):
            return
        self._make_room(features, int(ends[-1]), most_steps, int(rows.max()))
        assert self._steps is not None
        is_step = torch.arange(features.shape[1]) < lengths.unsqueeze(1)
        self._steps[self._used : int(ends[-1])] = features[is_step.to(features.device)]
        self._starts[rows], self._lengths[rows] = ends - lengths, lengths
        self._used = int(ends[-1])

    def _make_room(self, like: Tensor, steps: int, most_steps: int, row: int) -> None:
        capacity = 0 if self._steps is None else len(self._steps)
        if steps > capacity:
            # At least doubled: most tables then grow only a few times.
            grown = like.new_empty(min(max(steps, 2 * capacity), most_steps), *like.shape[2:])
            if self._steps is not None:
                grown[: self._used] = self._steps[: self._used]
            self._steps = grown
        more = max(row + 1, 2 * len(self._starts)) - len(self._starts) if row >= len(self._starts) else 0
        if more:
            self._starts = torch.cat([self._starts, torch.full((more,), -1)])
            self._lengths = torch.cat([self._lengths, torch.zeros(more, dtype=torch.int64)])

    def take(self, rows: Tensor, time: int) -> Tensor:
        """Gives the features of known rows.

        Args:
            rows: int64 [batch], on the CPU.
            time: The number of steps to give, at least that of each row.

        Returns:
            float [batch, time, ...], 0 beyond the steps of a row.
        """
        assert self._steps is not None
        steps = torch.arange(time)
        is_padding = steps >= self._lengths[rows].unsqueeze(1)
        places = (self._starts[rows].unsqueeze(1) + steps).masked_fill(is_padding, 0)
        features = self._steps[places.to(self._steps.device)]
        if is_padding.any():
            features[is_padding.to(features.device)] = 0
        return features
