"""Batches of similar length: complete, seeded, shared over ranks, resumable, and little padding."""

import numpy as np
import pytest

from lightning_transfer.data.buckets import bucketed_batches, token_batches
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError

# Spread as the reviews of IMDB are: a median of 200 tokens, a tenth above 530.
LENGTHS = np.random.default_rng(0).lognormal(5.3, 0.65, 23_000).astype(np.int64) + 1
ROWS = np.arange(0, 23_000, 2)


def padded_share(batches: list[np.ndarray]) -> float:
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    return 1 - sum(LENGTHS[batch].sum() for batch in batches) / padded


def test_epoch_has_whole_batches_of_different_rows() -> None:
    batches = bucketed_batches(ROWS, LENGTHS, batch_size=64, seed=0)(0)
    assert {len(batch) for batch in batches} == {64}
    assert len(batches) == len(ROWS) // 64
    rows = np.concatenate(batches)
    assert len(np.unique(rows)) == len(rows)
    assert set(rows) < set(ROWS)


def test_less_than_five_percent_of_an_epoch_is_padding() -> None:
    batches = bucketed_batches(ROWS, LENGTHS, batch_size=64, seed=0)
    assert padded_share(batches(0)) < 0.05
    assert padded_share(np.random.default_rng(0).permutation(ROWS)[:11_456].reshape(-1, 64)) > 0.4


def test_order_follows_from_seed_and_epoch_and_is_not_by_length() -> None:
    first, again, other_epoch, other_seed = (
        [batch.tolist() for batch in bucketed_batches(ROWS, LENGTHS, batch_size=64, seed=seed)(epoch)]
        for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert first == again
    assert first != other_epoch
    assert first != other_seed
    assert len(first) == len(other_epoch)
    longest = LENGTHS[np.array(first)].max(1)
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


def test_most_rows_meet_others_in_another_epoch() -> None:
    batches = bucketed_batches(ROWS, LENGTHS, batch_size=64, seed=0)
    first, second = ({frozenset(batch.tolist()) for batch in batches(epoch)} for epoch in (0, 1))
    assert len(first & second) < 0.05 * len(first)  # the few longest have no others of their length


def test_two_ranks_share_each_batch_and_cover_every_row_of_it_once() -> None:
    rows, lengths = np.arange(128), LENGTHS[:128]
    whole = bucketed_batches(rows, lengths, batch_size=8, seed=0)(3)
    shares = [bucketed_batches(rows, lengths, batch_size=8, seed=0, rank=rank, world_size=2)(3) for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part) for part in parts] == [4, 4]
        assert sorted(np.concatenate(parts)) == sorted(batch)
    assert sorted(np.concatenate([np.concatenate(share) for share in shares])) == rows.tolist()


def test_unequal_shares_are_refused() -> None:
    with pytest.raises(UserError, match="8 examples cannot be shared equally by 3 processes"):
        bucketed_batches(ROWS, LENGTHS, batch_size=8, seed=0, world_size=3)


def test_training_set_smaller_than_a_batch_is_one_batch() -> None:
    [batch] = bucketed_batches(ROWS[:5], LENGTHS, batch_size=64, seed=0)(0)
    assert sorted(batch) == ROWS[:5].tolist()


def test_restored_loader_gives_the_rest_of_the_epoch() -> None:
    def loader() -> BatchLoader:
        loader = BatchLoader(lambda rows: rows.tolist(), bucketed_batches(ROWS, LENGTHS, batch_size=64, seed=0))
        loader.set_epoch(2)
        return loader

    interrupted, resumed = loader(), loader()
    iterator = iter(interrupted)
    seen = [next(iterator) for _ in range(70)]
    resumed.load_state_dict(interrupted.state_dict())
    assert seen + list(resumed) == list(loader())


@pytest.mark.parametrize("equal_counts", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_covers_every_row_once_within_its_limits(world_size: int, equal_counts: bool) -> None:
    limits = {"batch_size": 100, "batch_tokens": 4000, "world_size": world_size, "equal_counts": equal_counts}
    shares = [token_batches(ROWS, LENGTHS, rank=rank, **limits)(0) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1 or not equal_counts
    assert sorted(np.concatenate([row for share in shares for row in share])) == ROWS.tolist()
    for batch in (batch for share in shares for batch in share):
        assert len(batch) <= 100
        assert len(batch) == 1 or len(batch) * LENGTHS[batch].max() <= 4000
    assert padded_share(shares[0]) < 0.05


def test_last_lone_document_is_evaluated_too() -> None:
    batches = token_batches(np.arange(4), np.array([9, 8, 7, 1]), batch_size=3, batch_tokens=100)(0)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3]]


def test_document_longer_than_a_batch_is_evaluated_by_itself() -> None:
    batches = token_batches(np.arange(3), np.array([5, 50_000, 5]), batch_size=9, batch_tokens=100)(0)
    assert [batch.tolist() for batch in batches] == [[1], [0, 2]]


def test_large_evaluation_batches_have_a_multiple_of_eight_rows() -> None:
    batches = token_batches(np.arange(100), np.full(100, 10), batch_size=61, batch_tokens=1000)(0)
    assert [len(batch) for batch in batches] == [56, 44]
