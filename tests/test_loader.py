"""The order of batches: a function of seed and epoch, resumable, shared out over ranks."""

import numpy as np
import pytest
import torch

from lightning_transfer.data.loader import BatchLoader, ordered_batches, shuffled_batches
from lightning_transfer.errors import UserError

ROWS = np.arange(100, 143)


def epoch_of(loader: BatchLoader, epoch: int) -> list[list[int]]:
    loader.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def training_loader(seed: int = 0, **ranks: int) -> BatchLoader:
    return BatchLoader(lambda rows: rows, shuffled_batches(ROWS, batch_size=8, seed=seed, **ranks))


def test_epoch_has_whole_batches_of_different_rows() -> None:
    batches = epoch_of(training_loader(), 0)
    assert [len(batch) for batch in batches] == [8] * 5
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == 40
    assert set(rows) < set(ROWS.tolist())


def test_order_follows_from_seed_and_epoch() -> None:
    assert epoch_of(training_loader(), 1) == epoch_of(training_loader(), 1)
    assert epoch_of(training_loader(), 1) != epoch_of(training_loader(), 2)
    assert epoch_of(training_loader(seed=0), 1) != epoch_of(training_loader(seed=1), 1)


def test_training_set_smaller_than_a_batch_is_one_batch() -> None:
    [batch] = shuffled_batches(ROWS, batch_size=1000, seed=0)(0)
    assert sorted(batch) == ROWS.tolist()


def test_ranks_share_the_batches_of_one_process() -> None:
    whole = epoch_of(training_loader(), 3)
    shares = [epoch_of(training_loader(rank=rank, world_size=2), 3) for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part) for part in parts] == [4, 4]
        assert sorted(parts[0] + parts[1]) == sorted(batch)


def test_unequal_shares_are_refused() -> None:
    with pytest.raises(UserError, match="8 examples cannot be shared equally by 3 processes"):
        shuffled_batches(ROWS, batch_size=8, seed=0, world_size=3)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_covers_every_row_once(world_size: int) -> None:
    shares = [ordered_batches(ROWS, batch_size=5, rank=rank, world_size=world_size)(0) for rank in range(world_size)]
    rows = np.concatenate([batch for share in shares for batch in share])
    assert sorted(rows) == ROWS.tolist()
    alone = [batch.tolist() for batch in ordered_batches(ROWS, batch_size=5)(0)]
    assert sorted(batch.tolist() for share in shares for batch in share) == alone


def test_last_lone_row_is_evaluated_too() -> None:
    assert [batch.tolist() for batch in ordered_batches(ROWS[:6], batch_size=5)(0)] == [[*range(100, 105)], [105]]


def test_outputs_of_an_evaluation_are_put_in_the_order_of_its_rows() -> None:
    batches = [np.array([4, 0]), np.array([3, 1]), np.array([2])]
    loader = BatchLoader(lambda rows: rows, lambda epoch: batches)
    outputs = [torch.from_numpy(10 * batch) for batch in batches]
    assert loader.in_order(outputs).tolist() == [0, 10, 20, 30, 40]
    assert loader.in_order(outputs[:2]).tolist() == [0, 10, 30, 40]
    assert loader.rows(2).tolist() == [0, 1, 3, 4]


def test_evaluation_of_few_rows_leaves_no_rank_without_a_batch() -> None:
    shares = [ordered_batches(ROWS[:9], batch_size=500, rank=rank, world_size=4)(0) for rank in range(4)]
    assert all(shares)
    with pytest.raises(UserError, match="3 examples cannot be evaluated by 4 processes"):
        ordered_batches(ROWS[:3], batch_size=500, world_size=4)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 500])
@pytest.mark.parametrize("count", [4, 7, 9, 43])
def test_evaluation_in_equal_counts_covers_every_row_once_in_as_many_batches_on_each_rank(
    count: int, batch_size: int
) -> None:
    options = {"batch_size": batch_size, "world_size": 4, "equal_counts": True}
    shares = [ordered_batches(ROWS[:count], rank=rank, **options)(0) for rank in range(4)]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert sorted(np.concatenate(batches)) == ROWS[:count].tolist()
    assert {len(batch) for batch in batches} <= set(range(1, max(batch_size, 2) + 1))


def test_evaluation_that_divides_has_the_same_batches_in_equal_counts() -> None:
    whole, equal = (ordered_batches(ROWS, batch_size=11, world_size=2, equal_counts=flag)(0) for flag in (False, True))
    assert [batch.tolist() for batch in equal] == [batch.tolist() for batch in whole]


@pytest.mark.parametrize("position", [1, 3, 4])
def test_restored_loader_gives_the_rest_of_the_epoch_and_then_whole_epochs(position: int) -> None:
    interrupted = training_loader()
    interrupted.set_epoch(2)
    iterator = iter(interrupted)
    seen = [next(iterator).tolist() for _ in range(position)]
    resumed = training_loader()
    resumed.load_state_dict(interrupted.state_dict())
    assert seen + epoch_of(resumed, 2) == epoch_of(training_loader(), 2)
    assert epoch_of(resumed, 3) == epoch_of(training_loader(), 3)


def test_epoch_left_early_does_not_shorten_the_next() -> None:
    loader = training_loader()
    next(iter(loader))
    assert epoch_of(loader, 1) == epoch_of(training_loader(), 1)
