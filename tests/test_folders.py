"""Folders as people have them: each file is in its split and class, or a line says why not."""

import gzip
import io
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import image_dataset, write_parquet
from PIL import Image

from lightning_transfer import ImageDataModule, LanguageModelDataModule, TextDataModule
from lightning_transfer.data.hub import load_split, split_names
from lightning_transfer.data.reading.split_words import find_validation
from lightning_transfer.data.reading.tree import files_below
from lightning_transfer.errors import UserError

pytestmark = pytest.mark.usefixtures("no_mirror")


def picture(colour: int) -> bytes:
    """A picture of its own for each colour."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (colour % 256, colour // 256, 99)).save(content, "png")
    return content.getvalue()


def write(root: Path, files: Iterable[str]) -> Path:
    """Writes pictures, and texts where the name says so; each is another one."""
    for number, name in enumerate(files):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"text {number}".encode() if name.endswith(".txt") else picture(number))
    return root


def tree(*folders: str, count: int = 3, suffix: str = "png") -> list[str]:
    return [f"{folder}/{number}.{suffix}" for folder in folders for number in range(count)]


def classes(root: Path, split: str) -> dict[str, int]:
    """The number of rows of each class; -1 is none."""
    dataset = load_split(str(root), split, label_column="label")
    names = dataset.features["label"].names
    labels = [names[label] if label >= 0 else -1 for label in dataset["label"]]
    for file, label in zip(dataset["file_name"], labels, strict=True):
        assert (root / file).is_file()
        assert label == -1 or f"{label}/" in file
    return dict(Counter(labels))


READ = {
    "splits in capitals": (tree("Train/cat", "Train/dog", "TEST/cat"), {"train": "cat dog", "test": "cat"}),
    "training and testing": (tree("training/a", "training/b", "testing/a"), {"train": "a b", "test": "a"}),
    "words and numbers besides": (tree("seg_train/a", "train2017/b", "test set/a"), {"train": "a b", "test": "a"}),
    "classes called as splits": (
        tree("train/test", "train/dev", "train/train", "test/test", "test/dev"),
        {"train": "dev test train", "test": "dev test"},
    ),
    "a bullet train": (tree("train/bullet train", "train/car", "test/car"), {"train": "bullet train,car"}),
    "classes whose names hold words for splits": (
        tree("bullet train", "test tube"),
        {"train": "bullet train,test tube"},
    ),
    "no split": (tree("cat", "dog"), {"train": "cat dog"}),
    "a class called train beside others": (tree("car", "train", "plane"), {"train": "car plane train"}),
    "classes with folders of which one is called train": (
        tree("train/steam", "car/sedan", "plane/jet"),
        {"train": "car plane train"},
    ),
    "two classes called as splits": (tree("dev", "ops"), {"train": "dev ops"}),
    "one class": (tree("train/cat", "test/cat"), {"train": "cat", "test": "cat"}),
    "one class without a split": (tree("cat"), {"train": "cat"}),
    "a folder more around everything": (tree("set/set/train/a", "set/set/train/b"), {"train": "a b"}),
    "a folder more in each split": (
        tree("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a"),
        {"train": "a b", "test": "a"},
    ),
    "images in each split": (tree("train/images/a", "train/images/b", "val/images/b"), {"train": "a b", "val": "b"}),
    "a folder for each patient": (
        tree("train/ill/p1", "train/ill/p2", "train/well/p1", "test/ill/p3"),
        {"train": "ill ill well", "test": "ill"},
    ),
    "a class called images that a split has alone": (
        tree("train/images", "train/dog", "test/images/patient"),
        {"train": "images dog", "test": "images"},
    ),
    "splits in each class": (
        tree("a/train", "a/test", "b/train", "b/test"),
        {"train": "a b", "test": "a b"},
    ),
    "a split of another name": (tree("train/a", "train/b", "monday/a"), {"train": "a b", "monday": "a"}),
    "names of pictures that say train": (
        [*tree("a", "b"), "a/photo of a train.png", "b/test.png"],
        {"train": "a a b b"},
    ),
    "letters of many scripts": (
        tree("train/猫", "train/собака", "train/chien d'été"),
        {"train": "猫,собака,chien d'été"},
    ),
    "folders beside that have no classes": (
        tree("train/a", "train/b", "unlabeled/x"),
        {"train": "a b", "unlabeled": ""},
    ),
    "no class in the test split": (tree("train/a", "train/b", "test"), {"train": "a b", "test": ""}),
    "other folders alone in a split": (
        tree("train/a", "train/b", "test/a", "pred/x"),
        {"train": "a b", "test": "a", "pred": ""},
    ),
    "the same word in all names of splits": (
        tree("alphabet_train/alphabet_train/a", "alphabet_train/alphabet_train/b", "alphabet_test/alphabet_test/a"),
        {"train": "a b", "test": "a"},
    ),
    "a folder more in a test split without classes": (
        tree("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test"),
        {"train": "a b", "test": ""},
    ),
    "words written together": (tree("trainset/a", "trainset/b", "ValSet/a"), {"train": "a b", "val": "a"}),
    "classes that end alike": (tree("bullet train", "test strain"), {"train": "bullet train,test strain"}),
    "classes called trainer and tester": (tree("trainer", "tester"), {"train": "tester trainer"}),
    "names that begin with words for splits": (
        tree("train-clean/a", "train-clean/b", "train-noisy/a", "test-clean/a"),
        {"train": "a a b", "test": "a"},
    ),
    "names of classes that begin with words for splits": (
        tree("train station", "test tube"),
        {"train": "train station,test tube"},
    ),
    "a folder of pictures without classes in a split": (
        tree("train/a", "train/b", "val/images"),
        {"train": "a b", "val": ""},
    ),
    "unlabelled beside classes": (tree("train/a", "train/b", "train/unsup"), {"train": "a b", "unsup": ""}),
}


@pytest.mark.parametrize("layout", READ)
@pytest.mark.filterwarnings("ignore:data set")
def test_each_picture_is_in_its_split_and_class(layout: str, tmp_path: Path) -> None:
    files, expected = READ[layout]
    root = write(tmp_path / "set", files)
    for split, words in expected.items():
        found = classes(root, split)
        names = words.split("," if "," in words else " ") if words else [-1]
        assert found.keys() == set(names)
        if layout != "names of pictures that say train":
            assert found == {name: 3 * count for name, count in Counter(names).items()}
        else:
            assert found == {"a": 4, "b": 4}


def test_pictures_without_classes_have_no_labels_and_the_line_says_where_labels_come_from(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train", "test"))
    assert load_split(str(root), "train").column_names == ["image", "file_name"]
    with pytest.raises(UserError, match=r"lie in no folders of classes: expected such as train/cat/1\.png"):
        load_split(str(root), "train", label_column="label")
    other = write(tmp_path / "other", tree("cat", "dog"))
    with pytest.raises(UserError, match=r"no column 'breed': labels are the names of folders: leave data\.label_colum"):
        load_split(str(other), "train", label_column="breed")


def test_validation_split_without_classes_is_refused_by_its_file(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/a", "train/b", "val/images"))
    with pytest.raises(
        UserError, match=r"row 0 of split 'val', val/images/0.png has no label: expected a file in a fold"
    ):
        ImageDataModule(str(root), image_size=8).prepare_data()


def test_training_on_one_class_folder_is_refused_by_what_is_missing(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/cat"))
    with pytest.raises(UserError, match=r"split 'train' has one class, cat: expected two or more; put the files of ea"):
        ImageDataModule(str(root), image_size=8).prepare_data()


def test_folder_of_a_class_may_be_a_link(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", tree("dogs"))
    root = write(tmp_path / "set", tree("train/cat"))
    (root / "train" / "dog").symlink_to(elsewhere / "dogs")
    (root / "train" / "cat" / "up").symlink_to(root)  # in a circle
    (root / "train" / "cat" / "link.png").symlink_to(elsewhere / "dogs" / "0.png")
    assert classes(root, "train") == {"cat": 4, "dog": 3}


def test_link_to_nothing_is_missed_by_its_path(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/cat", "train/dog"))
    (root / "train" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert classes_without_check(root) == {"cat": 3, "dog": 4}
    with pytest.raises(UserError, match=r"gone\.png|row 6"):
        ImageDataModule(str(root), image_size=8).read_split("train")


def test_link_to_itself_is_missed_by_its_path(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/cat", "train/dog"))
    (root / "train" / "dog" / "self.png").symlink_to("self.png")
    with pytest.raises(UserError, match=r"train/dog/self\.png of split 'train' cannot be decoded as an image"):
        ImageDataModule(str(root), image_size=8).read_split("train")


def classes_without_check(root: Path) -> dict[str, int]:
    dataset = load_split(str(root), "train", label_column="label")
    return dict(Counter(dataset.features["label"].int2str(dataset["label"][:])))


def test_stray_picture_is_left_out_by_name_and_the_labels_stay(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [*tree("train/cat", "train/dog"), "train/stray.png", "cover.png"])
    with pytest.warns(UserWarning, match=r"1 file \(train/stray\.png\) of split train left out") as said:
        assert classes(root, "train") == {"cat": 3, "dog": 3}
    assert any("1 file (cover.png) left out" in str(warning.message) for warning in said)


def test_files_of_other_kinds_among_the_pictures_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/cat", "train/dog"))
    for name in ("train/cat/7.heic", "train/cat/Thumbs.db", "labels.csv", "README.md", "config.json"):
        (root / name).write_text("path,breed\n")
    with pytest.warns(UserWarning, match=r"2 files of other kinds left out: train/cat/7\.heic, labels\.csv$"):
        assert classes(root, "train") == {"cat": 3, "dog": 3}


def test_class_of_which_nothing_is_read_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("cat", "dog"))
    (root / "newt").mkdir()
    for name in ("newt/0.heic", "newt/1.heic", "labels.xlsx", "LICENSE", "README.txt"):
        (root / name).write_text("")
    with pytest.warns(UserWarning, match=r"3 files of other kinds left out: newt/0\.heic, newt/1\.heic, labels\.xlsx$"):
        assert classes(root, "train") == {"cat": 3, "dog": 3}


@pytest.mark.parametrize("name", ["class_indices.json", "classes.csv"])
def test_table_of_classes_beside_their_folders_hides_no_picture(name: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("cat", "dog"))
    (root / name).write_text('{"0": "cat", "1": "dog"}' if name.endswith("json") else "id,name\n0,cat\n1,dog\n")
    with pytest.warns(UserWarning, match=f"1 file of other kinds left out: {name}"):
        assert classes(root, "train") == {"cat": 3, "dog": 3}


def test_folder_called_validate_is_the_validation_split(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/cat", "train/dog", "validate/cat", "validate/dog"))
    assert find_validation(split_names(str(root))) == "validate"


def test_what_systems_leave_in_folders_is_no_data(tmp_path: Path) -> None:
    files = tree("train/cat", "train/dog")
    hidden = ["train/cat/._0.png", "train/.ipynb_checkpoints/0.png", "__MACOSX/train/cat/._0.png", ".DS_Store"]
    root = write(tmp_path / "set", [*files, *hidden, "train/cat/@eaDir/0.png", "train/cat/Thumbs.db"])
    (root / "train" / "empty").mkdir()
    assert classes(root, "train") == {"cat": 3, "dog": 3}
    assert files_below(root) == [*files[:3], "train/cat/Thumbs.db", *files[3:]]


@pytest.mark.parametrize("name", ["a set", "set [1]", "set*", "sét", "[train]", "x.png"])
def test_path_may_have_any_characters(name: str, tmp_path: Path) -> None:
    root = write(tmp_path / name / "set", tree("train/cat [old]", "train/dog*"))
    assert classes(root, "train") == {"cat [old]": 3, "dog*": 3}
    table = tmp_path / name / "table"
    table.mkdir()
    (table / "train.csv").write_text("text,label\na,1\nb,0\n")
    assert load_split(str(table), "train")["text"][:] == ["a", "b"]
    hub = write_parquet(tmp_path / name / "hub", train=image_dataset(6), test=image_dataset(4))
    assert [len(load_split(str(hub), split, label_column="label")) for split in ("train", "test")] == [6, 4]


def test_classes_are_in_natural_order(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/1", "train/10", "train/2", "test/10", "test/2"))
    data = ImageDataModule(str(root), image_size=8, batch_size=2)
    assert data.class_names == ["1", "2", "10"]
    assert data.read_split("test").labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert load_split(str(root), "train")["file_name"][3:6] == tree("train/2")


def test_saved_data_sets_are_opened(tmp_path: Path) -> None:
    parts = {"train": image_dataset(6), "test": image_dataset(4)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "both")
    parts["train"].save_to_disk(tmp_path / "one")
    for name, part in parts.items():
        part.save_to_disk(tmp_path / "apart" / name)
    for folder in ("both", "apart"):
        assert sorted(split_names(str(tmp_path / folder))) == ["test", "train"]
        assert len(load_split(str(tmp_path / folder), "test", image_column="img")) == 4
    assert len(load_split(str(tmp_path / "one"), "train", image_column="img")) == 6


def test_saved_data_set_opens_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    image_dataset(6).save_to_disk(tmp_path / "set")
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    shutil.move(tmp_path / "set" / state["_data_files"][0]["filename"], tmp_path / "secret.arrow")
    state["_data_files"] = [{"filename": "../secret.arrow"}]
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"names '\.\./secret\.arrow', which is not in its folder"):
        load_split(str(tmp_path / "set"), "train")


def described(tmp_path: Path, *rows: str, header: str = "file_name,label") -> Path:
    root = write(tmp_path / "set", [f"train/{number}.png" for number in range(3)])
    (root / "train" / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def test_metadata_describes_the_pictures_beside_it(tmp_path: Path) -> None:
    root = described(tmp_path, "2.png,cat", "0.png,dog", "1.png,cat")
    dataset = load_split(str(root), "train", image_column="image", label_column="label")
    assert dataset["file_name"][:] == ["train/2.png", "train/0.png", "train/1.png"]
    assert dataset["label"][:] == ["cat", "dog", "cat"]
    assert [image.getpixel((0, 0))[0] for image in dataset["image"]] == [2, 0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["2.png,cat", "9.png,dog"], r"train/metadata\.csv names train/9\.png, which is no picture in the data folder"),
        (["2.png,cat", "2.png,dog"], r"train/2\.png is named twice in train/metadata\.csv"),
        (["../../secret.png,cat"], r"names train/\.\./\.\./secret\.png, which is no picture in the data folder"),
    ],
)
def test_metadata_that_does_not_fit_the_pictures_is_refused(rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_split(str(described(tmp_path, *rows)), "train")
    with pytest.raises(UserError, match=r"has no column file_name, its columns are name, label"):
        load_split(str(described(tmp_path, "2.png,cat", header="name,label")), "train")


def test_pictures_that_no_row_of_metadata_names_are_left_out_by_name(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 pictures of split 'train' left out, as no table names them: train/0\.png"):
        assert len(load_split(str(described(tmp_path, "2.png,cat", "1.png,dog")), "train")) == 2


def test_table_that_describes_pictures_is_not_said_to_be_left_out(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    load_split(str(described(tmp_path, "0.png,cat", "2.png,cat", "1.png,dog")), "train")
    assert not [str(warning.message) for warning in recwarn if "left out" in str(warning.message)]


def test_original_archive_of_imdb_is_read(tmp_path: Path) -> None:
    files = [f"{split}/{label}/{row}_{7 + row % 3}.txt" for split in ("train", "test") for label in ("pos", "neg")
             for row in range(4)]  # fmt: skip
    others = ["train/urls_pos.txt", "train/urls_unsup.txt", "test/urls_neg.txt", "imdbEr.txt"]
    root = write(tmp_path / "aclImdb", [*files, *tree("train/unsup", suffix="txt"), *others])
    (root / "imdb.vocab").write_text("film\n")
    (root / "train" / "labeledBow.feat").write_text("9 0:9 1:1\n")
    with pytest.warns(UserWarning, match="train/urls_pos.txt"):
        assert classes(root, "train") == classes(root, "test") == {"neg": 4, "pos": 4}
    assert classes(root, "unsup") == {-1: 3}
    first = load_split(str(root), "train")[0]
    assert first["file_name"] == "train/neg/0_7.txt"
    assert first["text"] == "text 4"
    data = LanguageModelDataModule(str(root), train_splits=("unsup", "train"), validation_fraction=0.2)
    assert len(data.documents.lengths) == 11
    assert TextDataModule(str(root)).class_names == ["neg", "pos"]


def test_text_of_another_encoding_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/a", "train/b", suffix="txt"))
    (root / "train" / "a" / "1.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(UserError, match=r"1\.txt is not UTF-8"):
        load_split(str(root), "train")
    (root / "train" / "a" / "1.txt").write_bytes("été".encode("utf-16"))
    assert load_split(str(root), "train")["text"][1] == "été"


def tables(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("text,label\n" + "".join(f"text {number} {row},{row % 2}\n" for row in range(number + 1)))
    return root


TABLES: dict[str, tuple[list[str], dict[str, int]]] = {
    "names in capitals": (["Train.csv", "TEST.csv"], {"train": 1, "test": 2}),
    "a word among others": (["reviews_train_v2.csv", "reviews-test.csv"], {"train": 1, "test": 2}),
    "several of a split": (["train_1.csv", "train_2.csv", "val.csv"], {"train": 3, "val": 3, "validation": 3}),
    "folders": (["train/a.csv", "train/b.csv", "test/a.csv"], {"train": 3, "test": 3}),
    "no word": (["a.csv", "b.csv"], {"train": 3, "a": 1, "b": 2}),
    "others beside": (["train.csv", "sample_submission.csv"], {"train": 1, "sample_submission": 2}),
    "texts beside": (["data.csv", "readme.txt"], {"train": 1}),
    "folders of no split": (["2019/x.csv", "2020/x.csv"], {"train": 3, "2019": 1, "2020": 2}),
    "what libraries write": (["data.csv", "dataset_infos.json", "config.json"], {"train": 1}),
    "words written together": (["trainset.csv", "testset.csv"], {"train": 1, "test": 2}),
    "a class of shoes is no split": (["trainer.csv", "tester.csv"], {"train": 3}),
    "an attest is no test": (["attest.csv", "contest.csv"], {"train": 3}),
}


@pytest.mark.parametrize("layout", TABLES)
@pytest.mark.filterwarnings("ignore:data set")
def test_tables_are_in_their_splits(layout: str, tmp_path: Path) -> None:
    names, expected = TABLES[layout]
    root = tables(tmp_path / "set", *names)
    assert {split: len(load_split(str(root), split)) for split in expected} == expected


def test_table_may_say_in_a_column_to_which_split_each_row_belongs(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,Split\na,train\nb,Test\nc,TRAIN\nd,valid\n")
    with pytest.warns(UserWarning, match=r"splits are the values of column 'Split': train, valid, test$"):
        found = {split: load_split(str(tmp_path), split)["text"][:] for split in split_names(str(tmp_path))}
    assert found == {"train": ["a", "c"], "valid": ["d"], "test": ["b"]}


def test_other_word_in_a_column_of_splits_is_a_split_and_an_empty_cell_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("text,split\na,train\nb,test\nc,unknown\n")
    found = {split: load_split(str(tmp_path), split)["text"][:] for split in split_names(str(tmp_path))}
    assert found == {"train": ["a"], "test": ["b"], "unknown": ["c"]}
    table.write_text("text,split\na,train\nb,test\nc,\n")
    with pytest.raises(UserError, match=r"column 'split' is empty in row 2: expected train, test or the like in each"):
        split_names(str(tmp_path))


@pytest.mark.parametrize("rows", ["a,train\nb,train\n", "a,train\nb,other\n", "a,test\nb,val\n", "a,train\nb,\n"])
def test_column_with_other_words_than_those_of_splits_divides_nothing(rows: str, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(f"text,split\n{rows}")
    assert split_names(str(tmp_path)) == ["train"]
    assert len(load_split(str(tmp_path), "train")) == 2


def test_name_of_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write(tmp_path, tree("train/cat", "train/dog"))
    os.rename(tmp_path / "train/dog/0.png", os.fsencode(tmp_path) + b"/train/dog/\xff.png")  # noqa: PTH104
    with pytest.raises(UserError, match=r"^file b'train/dog/\\xff\.png' has a name that is not UTF-8: expected UTF-8"):
        load_split(str(tmp_path), "train")


def test_table_of_no_split_is_left_out_by_name(tmp_path: Path) -> None:
    root = tables(tmp_path / "set", "train.csv", "test.csv", "sample_submission.csv")
    with pytest.warns(UserWarning, match="1 files left out beside the tables of train, test: sample_submission.csv"):
        load_split(str(root), "train")


def test_compressed_table_beside_the_same_unpacked_is_left_out_by_name(tmp_path: Path) -> None:
    root = tables(tmp_path / "set", "train.csv", "train-2.csv", "~$train.csv")
    (root / "train.csv.gz").write_bytes(gzip.compress((root / "train.csv").read_bytes(), mtime=0))
    (root / "train-3.csv.gz").write_bytes(gzip.compress((root / "train.csv").read_bytes(), mtime=0))
    with zipfile.ZipFile(root / "Train.zip", "w") as archive:
        archive.writestr("train.csv", (root / "train.csv").read_bytes())
    with pytest.warns(UserWarning, match=r"Train\.zip, train\.csv\.gz left out, as the same lies unpacked beside it"):
        assert len(load_split(str(root), "train")) == 1 + 2 + 1


def test_unknown_split_is_answered_with_those_there_are_and_the_way_out(tmp_path: Path) -> None:
    folders = write(tmp_path / "folders", tree("train/a", "train/b", "val/a"))
    parquet = write_parquet(tmp_path / "parquet", train=image_dataset(6), val=image_dataset(3))
    for root in (folders, parquet):
        with pytest.raises(UserError, match=r"no split 'test': its splits are train, val; .* data\.test_fraction 0\.2"):
            load_split(str(root), "test")
        assert len(load_split(str(root), "validation")) == 3  # another word for it
    with pytest.raises(UserError, match=r"no split 'train': its splits are test; name one of them$"):
        load_split(str(write(tmp_path / "other", tree("test/a", "test/b"))), "train")
    for name in ("exam", "trian"):  # which no test hold-out would make
        with pytest.raises(UserError, match=r"its splits are train, val; name one of them$"):
            load_split(str(folders), name)
    with pytest.raises(UserError, match=r"split 'validation' may be val or dev: name one of them"):
        load_split(str(write(tmp_path / "two", tree("train/a", "val/a", "dev/a"))), "validation")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", b"", "holds nothing: expected tables such as train.csv, or pictures"),
        ("a.xlsx", b"PK", "holds a.xlsx: expected tables such as train.csv, or pictures"),
        (
            "a.tar.gz",
            gzip.compress(b"no archive", mtime=0),
            r"cannot read split 'train' of data set .*; a\.tar\.gz is an archive, unpack it into the folder",
        ),
    ],
)
def test_folder_without_data_is_refused_in_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    if name:
        (root / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_split(str(root), "train")
    assert "\n" not in str(error.value)


def test_split_without_labels_is_named(tmp_path: Path) -> None:
    root = tables(tmp_path / "set", "train.csv")
    (root / "val.csv").write_text("text\nnew\n")
    with pytest.raises(UserError, match=r"split 'val' of data set '.*' has no column 'label': its columns are text;"):
        load_split(str(root), "val", label_column="label")


def test_slice_of_rows_in_the_order_of_classes_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/a", "train/b", "test/a", "test/b"))
    with pytest.raises(UserError, match=r"'train\[:50%\]' is a slice of rows in the order of their classes.*test_fra"):
        load_split(str(root), "train[:50%]")
    assert len(load_split(str(root), "train+test")) == 12
    table = tables(tmp_path / "table", "a.csv", "train.csv")
    assert load_split(str(table), "train[1:]")["text"][:] == ["text 1 1"]
    assert len(load_split(str(table), "train[:50%]+train[:50%]")) == 2
    with pytest.raises(UserError, match="no split 'nothing'"):
        load_split(str(table), "nothing[:2]")


def test_replaced_picture_makes_another_data_set_whatever_its_time(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("cat", "dog"))
    before = load_split(str(root), "train")._fingerprint
    assert load_split(str(root), "train")._fingerprint == before
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    assert load_split(str(copy), "train")._fingerprint == before  # on another machine, too
    file = root / "cat" / "1.png"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(picture(200))
    os.utime(file, ns=times)
    assert load_split(str(root), "train")._fingerprint != before
    (copy / "dog").rename(copy / "wolf")
    assert load_split(str(copy), "train")._fingerprint != before


def test_folder_with_a_card_is_left_to_the_library(tmp_path: Path) -> None:
    root = tables(tmp_path / "set", "first.csv", "second.csv")
    card = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "second.csv"}]}]}
    (root / "README.md").write_text(
        f"---\n{json.dumps(card)[1:-1].replace(chr(34) + 'configs' + chr(34), 'configs')}\n---\n"
    )
    assert load_split(str(root), "train")["text"][:] == ["text 1 0", "text 1 1"]
    (root / "README.md").write_text("# No card\n")
    assert len(load_split(str(root), "train")) == 3


def test_data_module_reads_class_folders_with_their_validation(tmp_path: Path) -> None:
    root = write(tmp_path / "set", tree("train/a", "train/b", "valid/a", "valid/b", count=4))
    data: Any = ImageDataModule(str(root), image_size=8, batch_size=2)
    data.prepare_data()
    data.setup("fit")
    assert sorted(row for batch in data.train_dataloader() for row in batch.indices.tolist()) == list(range(8))
    assert [label for batch in data.val_dataloader() for label in batch.labels.tolist()] == [0] * 4 + [1] * 4
