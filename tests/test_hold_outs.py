"""What is held out for validation and test: a split of its own, shares of the classes, or whole groups."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import fit_arguments, image_dataset, run_folder, write_parquet
from test_cli import error_line
from test_texts import text_dataset

from lightning_transfer import (
    CIFAR10,
    IMDB,
    Classifier,
    DemoImages,
    DemoTexts,
    ImageDataModule,
    LanguageModelDataModule,
    SeedCNN,
    TextDataModule,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.data.classification import ClassificationDataModule
from lightning_transfer.data.hold_outs import count_shared_groups, hold_out, hold_out_groups
from lightning_transfer.data.splits import split_train_validation
from lightning_transfer.errors import UserError
from lightning_transfer.modules.cached_features import CachedFeatures

Data = ClassificationDataModule[Any]


def fitted(data: Data) -> Data:
    data.prepare_data()
    data.setup("fit")
    return data


def numbered(rows: int, **columns: list[Any]) -> datasets.Dataset:
    """Texts that are their own number, of two classes."""
    labels = datasets.ClassLabel(names=["neg", "pos"])
    features = {"text": datasets.Value("string"), "label": labels}
    content = {"text": [f"text w{row}" for row in range(rows)], "label": [row % 2 for row in range(rows)]}
    dataset = datasets.Dataset.from_dict(content, features=datasets.Features(features))
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    return dataset


def words(data: Data, split: str) -> set[str]:
    """The texts of a split by their words."""
    return {text.split()[1] for text in data.open_split(split)["text"]}


def train_and_validation(data: Data) -> tuple[list[int], list[int]]:
    return data._train_rows.tolist(), data._validation_rows.tolist()


LABELS = [2, 2, 0, 2, 1, 1, 1, 0, 2, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 2, 0, 1, 2, 0, 0, 1, 0, 2, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "train", "validation"),
    [
        (
            {"validation_fraction": 0.2, "train_fraction": 0.4, "seed": 3},
            [0, 2, 4, 7, 9, 12, 19, 26],
            [1, 5, 6, 20, 23, 28, 29],
        ),
        ({"validation_fraction": 0.1, "examples_per_class": 2, "seed": 1}, [0, 5, 12, 17, 23, 29], [7, 21, 27]),
        ({"validation_fraction": 0.0, "examples_per_class": 2}, [3, 5, 9, 10, 11, 22], []),
    ],
)
def test_rows_are_those_of_earlier_versions(arguments: dict, train: list[int], validation: list[int]) -> None:
    found = split_train_validation(np.array(LABELS), **arguments)
    assert [rows.tolist() for rows in found] == [train, validation]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_validation_split_of_its_own_is_used_whole_and_nothing_is_held_out(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_parquet(tmp_path / "set", train=image_dataset(30), **{name: image_dataset(12, seed=2)})
    with caplog.at_level("INFO"):
        data = fitted(CIFAR10(path=str(root), batch_size=5))
    assert f"validation on the split {name} of {root}; nothing is held out of train" in caplog.text
    assert train_and_validation(data) == ([*range(30)], [*range(12)])
    images = torch.cat([batch.images for batch in data.val_dataloader()])
    assert torch.equal(images, data.read_split(name).inputs)
    assert data.facts["validation_split"] == name
    assert data.facts["validation_examples"] == 12


def test_validation_split_is_what_is_asked_for(tmp_path: Path) -> None:
    more = numbered(60).select(range(40, 60))
    parts = {
        "val": more.select(range(12)),
        "dev": more.select(range(12, 20)),
        "test": numbered(66).select(range(60, 66)),
    }
    root = write_parquet(tmp_path / "set", train=numbered(40), **parts)
    assert len(fitted(IMDB(path=str(root)))._validation_rows) == 12
    assert len(fitted(IMDB(path=str(root), validation_split="dev", train_fraction=0.5))._validation_rows) == 8
    held_out = fitted(IMDB(path=str(root), validation_split="train", validation_fraction=0.25))
    train, validation = split_train_validation(np.arange(40) % 2, validation_fraction=0.25)
    assert train_and_validation(held_out) == (train.tolist(), validation.tolist())
    assert "validation_split" not in held_out.facts
    sliced = fitted(IMDB(path=str(root), train_split="train[:30]", validation_split="train[30:]"))
    assert train_and_validation(sliced) == ([*range(30)], [*range(10)])
    with pytest.raises(UserError, match=r"no split 'exam': its splits are train, val, dev, test"):
        fitted(IMDB(path=str(root), validation_split="exam"))


def test_what_is_tested_on_is_never_validated_on(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(40), val=numbered(12))
    data = fitted(IMDB(path=str(root), test_split="val"))
    assert data.own_validation is None
    assert len(data._validation_rows) == 4
    for name in ("val", "validation"):
        with pytest.raises(UserError, match=f"data.validation_split is {name}, the split to test on: expected anothe"):
            fitted(IMDB(path=str(root), test_split="val", validation_split=name))


@pytest.mark.parametrize("tested", ["test", "test[:3]", "val+test"])
def test_part_of_what_is_tested_on_is_never_validated_on(tested: str, tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(40), test=numbered(52).select(range(40, 52)))
    asked_for = "test[:3]" if tested == "test[:3]" else "train+test[3:]"
    with pytest.raises(UserError, match=r"the split to test on: expected another one"):
        fitted(IMDB(path=str(root), test_split=tested, validation_split=asked_for))
    apart = fitted(IMDB(path=str(root), test_split="test[:6]", validation_split="test[6:]"))
    assert len(apart._validation_rows) == 6


def test_split_that_is_trained_on_with_others_is_no_validation_by_default(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(40), val=numbered(52).select(range(40, 52)))
    data = fitted(IMDB(path=str(root), train_split="train+val"))
    assert data.own_validation is None
    train, validation = train_and_validation(data)
    assert sorted(train + validation) == [*range(52)]


def test_examples_that_validation_and_training_share_are_counted_and_said(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(40), validation=numbered(46).select(range(38, 46)))
    with pytest.warns(
        UserWarning, match=r"2 of 8 examples of data.validation_split validation are in train too \(25 %\)"
    ):
        data = fitted(IMDB(path=str(root)))
    assert data.facts["validation_examples_in_training_split"] == 2


def test_features_of_a_validation_split_are_not_those_of_training_rows(tmp_path: Path) -> None:
    import lightning as L

    root = write_parquet(tmp_path / "set", train=image_dataset(30), validation=image_dataset(12, seed=2))
    outcomes = []
    for cache_features in (True, False):
        L.seed_everything(0)
        network = SeedCNN(num_classes=3)
        for name, parameter in network.named_parameters():
            parameter.requires_grad = name.startswith("head")
        module = Classifier(network, num_classes=3, cache_features=cache_features)
        trainer = L.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=module.configure_callbacks(),
        )  # fmt: skip
        data = CIFAR10(path=str(root), batch_size=10)
        trainer.fit(module, datamodule=data)
        assert any(isinstance(callback, CachedFeatures) for callback in trainer.callbacks) == cache_features
        outcomes.append(trainer.callback_metrics["val/loss"].item())
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-5)


def test_test_is_held_out_by_class_apart_from_training_and_validation(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(100))
    data = fitted(IMDB(path=str(root), test_fraction=0.2))
    test, rest = words(data, "test"), words(data, "train")
    assert not test & rest
    assert test | rest == {f"w{row}" for row in range(100)}
    assert Counter(data.read_split("test").labels.tolist()) == {0: 10, 1: 10}
    assert len(data._train_rows) == 72
    assert len(data._validation_rows) == 8
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 20
    # Predictions name the rows of the split that there is.
    assert {f"train[{word[1:]}]" for word in test} == set(data.read_split("test").names)
    assert not test & set(data.tokenizer.get_vocab())  # the vocabulary is of the rest


def test_test_depends_on_its_own_seed_alone(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(60))
    first = words(IMDB(path=str(root), test_fraction=0.2), "test")
    same: list[dict[str, Any]] = [{"split_seed": 5}, {"validation_fraction": 0.5}, {"train_fraction": 0.3}]
    assert all(words(IMDB(path=str(root), test_fraction=0.2, **other), "test") == first for other in same)
    assert words(IMDB(path=str(root), test_fraction=0.2, test_seed=1), "test") != first
    named = IMDB(path=str(root), test_fraction=0.2, test_split="exam")
    assert words(named, "exam") == first


def test_test_hold_out_that_cannot_be_is_refused_with_the_way_out(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(20), test=numbered(4))
    with pytest.raises(UserError, match=r"data\.test_fraction is 0\.2, but the data has a split test: set it to 0"):
        IMDB(path=str(root), test_fraction=0.2).open_split("train")
    with pytest.raises(UserError, match=r"data\.test_fraction is 1: expected at least 0 and below 1"):
        IMDB(path=str(root), test_fraction=1)
    lone = numbered(20).filter(lambda row: row["label"] == 0 or row["text"] == "text w1")
    with pytest.raises(UserError, match=r"holds out all 1 examples of class 'pos': expected some to train on"):
        IMDB(path=str(write_parquet(tmp_path / "lone", train=lone)), test_fraction=0.2).open_split("train")
    for kind in (DemoImages, DemoTexts):
        with pytest.raises(UserError, match=f"data.test_fraction is 0.2: expected 0 with {kind.__name__}, which makes"):
            fitted(kind(task="target", test_fraction=0.2))
    with pytest.raises(UserError, match=r"data\.group_column is patient: expected null with DemoImages, which has no"):
        fitted(DemoImages(task="target", group_column="patient"))


def test_duplicates_across_the_test_hold_out_are_counted_and_the_way_out_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = datasets.concatenate_datasets([image_dataset(60), image_dataset(60)])
    root = write_parquet(tmp_path / "set", train=twice.add_column("film", [row % 60 for row in range(120)]))
    arguments = fit_arguments(root, "--dashboards", "null", "--test_after_fit", "true")
    assert "no split 'test': its splits are train; " in error_line(capsys, *arguments)
    with pytest.warns(UserWarning, match=r"are in train too .* data\.group_column can keep them on one side"):
        main([*arguments, "--data.test_fraction", "0.1"])
    record = json.loads((run_folder() / "results.json").read_text())
    assert record["data"]["test_examples_in_training_split"] > 0
    assert record["data"]["test_fraction"] == 0.1
    grouped = fitted(CIFAR10(path=str(root), test_fraction=0.1, group_column="film"))
    grouped.count_shared("test", "test")
    assert grouped.facts["test_examples_in_training_split"] == 0


GROUPS = np.random.default_rng(1).integers(0, 25, 200)
CLASSES = (GROUPS + np.random.default_rng(2).integers(0, 2, 200)) % 3


@pytest.mark.parametrize("cut", [{}, {"train_fraction": 0.3}, {"examples_per_class": 4}])
def test_group_is_never_on_both_sides(cut: dict[str, Any]) -> None:
    for seed in range(20):
        train, validation = split_train_validation(CLASSES, validation_fraction=0.2, seed=seed, groups=GROUPS, **cut)
        assert len(validation)
        assert not set(GROUPS[train]) & set(GROUPS[validation])
        assert set(validation) == set(np.flatnonzero(np.isin(GROUPS, GROUPS[validation])))  # groups are whole
        again = split_train_validation(CLASSES, validation_fraction=0.2, seed=seed, groups=GROUPS, **cut)
        assert np.array_equal(again[1], validation)


def test_groups_keep_the_shares_of_the_classes() -> None:
    shares = [
        np.bincount(CLASSES[hold_out_groups(CLASSES, 0.2, seed, GROUPS)], minlength=3) / np.bincount(CLASSES)
        for seed in range(20)
    ]
    assert np.abs(np.array(shares) - 0.2).max() < 0.15
    assert np.abs(np.mean(shares) - 0.2) < 0.03
    assert len({tuple(share) for share in shares}) > 5  # seeds differ


def test_groups_that_are_few_or_large_leave_something_on_either_side() -> None:
    classes = np.array([0, 1] * 15)
    for groups in (np.repeat([0, 1, 2], 10), np.repeat([0, 1], [28, 2]), np.arange(30)):
        held_out = hold_out_groups(classes, 0.1, 0, groups)
        assert 0 < held_out.sum() < 30
        assert set(classes[~held_out]) == {0, 1}
    assert hold_out_groups(classes, 0.1, 0, np.repeat([0, 1], [28, 2])).sum() == 2
    with pytest.raises(UserError, match=r"data\.group_column leaves no group to hold out: expected several groups of"):
        hold_out_groups(classes, 0.1, 0, np.zeros(30, np.int64))


def test_hold_out_without_groups_has_its_share_of_every_class() -> None:
    classes = np.repeat([0, 1, 2], [100, 50, 3])
    assert np.bincount(classes[hold_out(classes, 0.1, 0, None)]).tolist() == [10, 5, 1]


def test_groups_are_held_out_for_test_and_validation_alike(tmp_path: Path) -> None:
    films = [f"film {row // 5}" for row in range(100)]
    root = write_parquet(tmp_path / "set", train=numbered(100, film=films))
    data = fitted(IMDB(path=str(root), test_fraction=0.2, validation_fraction=0.2, group_column="film"))
    rest = np.array(data.open_split("train")["film"])
    parts = [set(data.open_split("test")["film"]), set(rest[data._train_rows]), set(rest[data._validation_rows])]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts)) == 20
    ungrouped = fitted(IMDB(path=str(root), validation_fraction=0.2))
    assert set(np.array(films)[ungrouped._train_rows]) & set(np.array(films)[ungrouped._validation_rows])


def test_class_that_no_group_can_validate_is_said() -> None:
    labels, groups = np.array([0] * 20 + [1] * 20 + [2] * 20), np.array([*range(20), *range(20, 40), *[40] * 20])
    names = ["cat", "dog", "bird"]
    with pytest.warns(UserWarning, match="whole groups leave no example of bird to validate on"):
        split_train_validation(labels, validation_fraction=0.2, groups=groups, class_names=names)


def test_groups_that_splits_of_their_own_share_are_counted_and_said(tmp_path: Path) -> None:
    parts = {"train": numbered(40, film=[row // 4 for row in range(40)])}
    more = numbered(60, film=[row // 4 for row in range(60)])
    root = write_parquet(tmp_path / "set", **parts, val=more.select(range(36, 60)), test=more.select(range(44, 60)))
    data = IMDB(path=str(root), group_column="film")
    data.test_follows = True
    with pytest.warns(UserWarning, match=r"1 of 6 groups of split val are in train too \(data.group_column film\): 9"):
        data.prepare_data()
    assert data.facts["validation_groups_in_training_split"] == 1
    assert data.facts["test_groups_in_training_split"] == 0


def test_group_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    films = ["p1", " p1", "caf\u00e9 ", "cafe\u0301", "p3", "p3"] * 4
    root = write_parquet(tmp_path / "set", train=numbered(24, film=films))
    train, validation = (
        {films[row].strip()[:3] for row in rows}
        for rows in train_and_validation(fitted(IMDB(path=str(root), group_column="film")))
    )
    assert validation
    assert not train & validation
    numbers = datasets.Dataset.from_dict({"film": [1.0, 2.0]}), datasets.Dataset.from_dict({"film": ["1", " 3"]})
    with pytest.warns(UserWarning, match="1 of 2 groups of split val are in train too"):
        assert count_shared_groups(*numbers, "film", ("train", "val")) == 1


@pytest.mark.parametrize(
    ("films", "column", "message"),
    [
        ([*["a", "b"] * 9, " ", "a"], "film", r"group column 'film' holds nothing in row 18 of split 'train'"),
        ([*[1.0, 2.0] * 9, float("nan"), 1.0], "film", r"group column 'film' holds nothing in row 18 of split 'train'"),
        ([None, *["a"] * 19], "film", r"group column 'film' holds nothing in row 0 of split 'train': expected a group"),
        (["a"] * 20, "film", r"data\.group_column leaves no group to hold out"),
        (["a"] * 20, "author", r"no column 'author': its columns are text, label, film; name one by data\.group_colu"),
    ],
)
def test_groups_that_cannot_be_are_refused(films: list[Any], column: str, message: str, tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(20, film=films))
    with pytest.raises(UserError, match=message):
        fitted(IMDB(path=str(root), group_column=column))


def test_language_model_validates_on_a_split_of_its_own_and_reads_no_test(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "set", train=numbered(40), valid=text_dataset(6))
    data = LanguageModelDataModule(str(root), batch_size=2)
    train, validation = data._divide()
    assert (len(train), len(validation)) == (40, 6)
    assert "awful" not in data.tokenizer.get_vocab()
    assert data.facts["validation_tokens"] == sum(len(text.split()) for text in text_dataset(6)["text"])
    held_out = LanguageModelDataModule(str(root), validation_split="train", validation_fraction=0.1)
    assert [len(rows) for rows in held_out._divide()] == [36, 4]
    test = words(IMDB(path=str(root), test_fraction=0.2), "test")
    without = LanguageModelDataModule(str(root), test_fraction=0.2)
    assert len(without._divide()[0]) == 32
    assert not test & set(without.tokenizer.get_vocab())


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("path", "column", "train", "validation"),
    [("stanfordnlp/sst2", "sentence", 6920, 872), ("medmnist/pneumoniamnist", "image", 4690, 524)],
)
def test_published_validation_split_is_used(path: str, column: str, train: int, validation: int, mirror: Path) -> None:
    data: Any = ImageDataModule(path) if column == "image" else TextDataModule(path, text_column=column)
    fitted(data)
    assert data.own_validation == "validation"
    assert (len(data._train_rows), len(data._validation_rows)) == (train, validation)
