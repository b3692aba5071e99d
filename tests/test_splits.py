"""Hold-outs and cuts: stratified, nested, seeded, disjoint."""

import numpy as np
import pytest

from lightning_transfer.data.splits import evenly_spaced, split_train_validation
from lightning_transfer.errors import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [100, 100, 100, 50, 20]))


def test_training_and_validation_rows_divide_the_split() -> None:
    train, validation = split_train_validation(LABELS, validation_fraction=0.1)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(LABELS)))


def test_hold_out_has_its_share_of_every_class() -> None:
    _, validation = split_train_validation(LABELS, validation_fraction=0.1)
    assert np.bincount(LABELS[validation]).tolist() == [10, 10, 10, 5, 2]


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ({"train_fraction": 0.1}, {"train_fraction": 0.5}),
        ({"train_fraction": 0.5}, {}),
        ({"examples_per_class": 1}, {"examples_per_class": 10}),
        ({"examples_per_class": 10}, {"train_fraction": 1.0}),
    ],
)
def test_smaller_cut_is_a_subset_of_a_larger_one_with_the_same_hold_out(small: dict, large: dict) -> None:
    few, validation = split_train_validation(LABELS, validation_fraction=0.1, **small, seed=3)
    many, same_validation = split_train_validation(LABELS, validation_fraction=0.1, **large, seed=3)
    assert set(few) < set(many)
    assert np.array_equal(validation, same_validation)
    assert not set(many) & set(validation)


def test_examples_per_class_are_exact() -> None:
    train, _ = split_train_validation(LABELS, validation_fraction=0.1, examples_per_class=7)
    assert np.bincount(LABELS[train]).tolist() == [7] * 5


def test_sample_is_from_all_over_the_rows_with_the_first_and_the_last() -> None:
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(3, 100).tolist() == [0, 1, 2]


def test_seed_decides_the_split() -> None:
    first, again, other = (split_train_validation(LABELS, validation_fraction=0.1, seed=seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"validation_fraction": 0.1, "train_fraction": 0.0}, "train_fraction is 0.0"),
        ({"validation_fraction": 0.1, "examples_per_class": 0}, "examples_per_class is 0"),
        ({"validation_fraction": 0.1, "examples_per_class": 19}, "class 4 has 18 rows to train on"),
        ({"validation_fraction": 0.1, "examples_per_class": 5, "train_fraction": 0.5}, "not both"),
    ],
)
def test_impossible_cut_is_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_train_validation(LABELS, **arguments)


@pytest.mark.parametrize(
    ("rows", "arguments", "way_out"),
    [
        (1, {"validation_fraction": 0.1}, r"set data\.validation_fraction 0 or leave the class out"),
        (1, {"validation_fraction": 0.0, "examples_per_class": 2}, r"lower data\.examples_per_class or"),
        (2, {"validation_fraction": 0.9}, r"lower data\.examples_per_class or data\.validation_fraction"),
    ],
)
def test_class_with_too_few_rows_is_refused_with_what_helps(rows: int, arguments: dict, way_out: str) -> None:
    labels = np.repeat([0, 1], [100, rows])
    with pytest.raises(UserError, match=rf"class 1 has . rows to train on .* are too many, {way_out}"):
        split_train_validation(labels, **arguments)
    split_train_validation(labels, validation_fraction=0.0)
