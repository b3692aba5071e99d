"""Pictures as people have them: files in folders, tables that name them, bytes, arrays, 16 bits, damage."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import write_parquet
from PIL import Image
from torch import Tensor

from lightning_transfer import ImageDataModule
from lightning_transfer.data.decoding import ImageShape, decode_all, to_array, typical_window
from lightning_transfer.data.pictures.locating import Locator, pictures_below
from lightning_transfer.data.pictures.opening import opened
from lightning_transfer.data.pictures.sequences import FilePictures
from lightning_transfer.data.pictures.to_predict import pictures_to_predict
from lightning_transfer.data.pictures.windows import measure_window, to_bytes
from lightning_transfer.errors import UserError


def picture(shade: int, size: int = 8) -> Image.Image:
    return Image.new("RGB", (size, size), (shade, shade, shade))


def save(file: Path, shade: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(shade).save(file)
    return file


def shades(images: Tensor) -> list[int]:
    """The grey level in the middle of each image."""
    return [int(image[0, 4, 4]) for image in images]


def read(folder: Path | str, split: str = "train", **options: Any) -> tuple[list[int], list[str | int]]:
    found = ImageDataModule(str(folder), image_size=8, **options).read_split(split)
    return shades(found.inputs), list(found.names)


def table(folder: Path, text: str, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.csv").write_text(text)
    return folder


def predicted(path: Path | str, **options: Any) -> tuple[list[int], list[str | int]]:
    data = ImageDataModule("nowhere", image_size=8, predict_path=str(path), **options)
    data.load_state_dict({"place": {}, "class_names": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3})
    loader = data.predict_dataloader()
    return shades(torch.cat([batch.images for batch in loader])), loader.names(len(loader))


# Folders to predict


def test_files_of_other_kinds_in_a_folder_to_predict_are_named(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "new" / f"{number}.png", 9)
    for name in ("scan.heic", "README.md", "Thumbs.db"):
        (tmp_path / "new" / name).write_text("")
    with pytest.warns(UserWarning, match=r"data.predict_path '.*new': 1 file of other kinds left out: scan\.heic$"):
        assert len(pictures_to_predict(str(tmp_path / "new"), "image")) == 2


# Tables that name files


@pytest.mark.parametrize(
    ("named", "file"),
    [
        ("1.png", "1.png"),
        ("1", "1.png"),  # the identifiers of a contest, which the table's reader makes whole numbers
        ("7", "007.png"),
        ("a b", "a b.jpg"),
        ("sub/1.png", "sub/1.png"),
        ("./1.png", "1.png"),
        ("sub\\1.png", "sub/1.png"),
        ("x.JPG", "x.jpg"),
        ("caf\u00e9", "cafe\u0301.png"),
        ("1.png", "train/1.png"),
        ("scan.2", "scan.2.png"),
    ],
)
def test_table_names_pictures_with_or_without_suffix_relative_to_the_data(
    named: str, file: str, tmp_path: Path
) -> None:
    folder = table(tmp_path / "set", f"image,label\n{named},0\n{named},1\n")
    save(folder / file, 100)
    assert read(folder) == ([100, 100], [named, named])


@pytest.mark.parametrize("image_folder", ["pictures", "set/pictures", "{split}_pictures"])
def test_pictures_of_a_table_may_lie_in_a_folder_of_their_own(image_folder: str, tmp_path: Path) -> None:
    folder = table(tmp_path / "set", "image,label\na,0\nb,1\n")
    for name, shade in {"a": 100, "b": 200}.items():
        save(folder / "pictures" / f"{name}.png", shade)
        save(folder / "train_pictures" / f"{name}.png", shade + 1)
    expected = [101, 201] if "{" in image_folder else [100, 200]
    assert read(folder, image_folder=image_folder) == (expected, ["a", "b"])
    with pytest.raises(UserError, match=r"data\.image_folder 'nowhere' does not exist: expected a folder"):
        read(folder, image_folder="nowhere")


def test_metadata_beside_pictures_labels_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for row in range(4):
            save(tmp_path / "set" / split / f"{row}.png", 50 * row)
        lines = "".join(f"{row}.png,{'odd' if row % 2 else 'even'}\n" for row in range(4))
        (tmp_path / "set" / split / "metadata.csv").write_text(f"file_name,label\n{lines}")
    data = ImageDataModule(str(tmp_path / "set"), image_size=8)
    split = data.read_split("train")
    assert [data.class_names[label] for label in split.labels] == ["even", "odd"] * 2
    assert shades(split.inputs) == [0, 50, 100, 150]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("gone.png", r"gone\.png of split 'train' cannot be decoded as an image: there is no such file in .*set and "),
        (
            "../../secret.png",
            r"\.\./secret\.png of split 'train' .*: it leads out of .*: set data\.image_folder to the f",
        ),
        ("/etc/secret.png", "it leads out of"),
        ("https://example.com/a.png", "it is an address, and only files are read: download them"),
        ("twice", r"several files may be meant, twice\.jpg, twice\.png: name one of them"),
        ("", "the image in row 1 of split 'train', column 'image', cannot be decoded as an image: there is none"),
    ],
)
def test_name_that_is_no_picture_of_the_data_is_refused(named: str, message: str, tmp_path: Path) -> None:
    folder = table(tmp_path / "below" / "set", f"image,label\na.png,0\n{named},1\n")
    for file in ("a.png", "../../secret.png", "twice.png", "twice.jpg"):
        save(folder / file, 9)
    with pytest.raises(UserError, match=message):
        read(folder)


def test_column_of_other_words_is_no_column_of_images(tmp_path: Path) -> None:
    folder = table(tmp_path / "set", "text,label\nfine film,0\nbad film,1\n")
    with pytest.raises(UserError, match=r"column 'text' of split 'train' names no images, 'fine film' for example: t"):
        read(folder, image_column="text")


def test_links_in_the_data_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png", 100)
    folder = table(tmp_path / "set", "image,label\nlink/a,0\nlink/a,1\n")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert read(folder)[0] == [100, 100]


def test_number_names_no_file_with_other_digits(tmp_path: Path) -> None:
    for name in ("01", "1b", "10"):
        save(tmp_path / f"{name}.png", 9)
    assert Locator([tmp_path]).find(1) == tmp_path / "01.png"
    for name in (0, 100):
        with pytest.raises(FileNotFoundError):
            Locator([tmp_path]).find(name)


# Bytes and numbers


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


GREY = np.full((8, 8), 100, np.uint8)
COLOUR = np.full((8, 8, 3), 100, np.uint8)
COLUMNS: dict[str, tuple[list[Any], Any]] = {
    "bytes": ([png(picture(100))] * 2, datasets.Value("binary")),
    "bytes with a path": ([{"bytes": png(picture(100)), "path": "/no/a.png"}] * 2, None),
    "lists of whole numbers": ([GREY.tolist()] * 2, None),
    "lists of real numbers": ([(GREY / 255).tolist(), (GREY * 0.0).tolist()], None),
    "lists with channels": ([COLOUR.tolist()] * 2, None),
    "one channel": ([GREY[..., None].tolist()] * 2, None),
    "channels first": ([COLOUR.transpose(2, 0, 1).tolist()] * 2, None),
    "Array2D": ([GREY] * 2, datasets.Array2D((8, 8), "uint8")),
    "Array3D": ([COLOUR] * 2, datasets.Array3D((8, 8, 3), "uint8")),
    "Array3D of real numbers": ([COLOUR / 255] * 2, datasets.Array3D((8, 8, 3), "float32")),
    "bool": ([(GREY > 0).tolist()] * 2, None),
}


def column_of(values: list[Any], feature: Any) -> datasets.Dataset:
    features = None if feature is None else datasets.Features({"image": feature, "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": values, "label": [*range(len(values))]}, features=features)


@pytest.mark.parametrize("kind", COLUMNS)
def test_bytes_and_numbers_in_parquet_are_pictures(kind: str, tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", train=column_of(*COLUMNS[kind]))
    found, names = read(folder)
    assert found[0] == (255 if kind == "bool" else 100)
    assert names == [0, 1]


@pytest.mark.parametrize(
    ("values", "feature", "reason"),
    [
        ([GREY.tolist(), None], None, "there is none"),
        ([GREY, None], datasets.Array2D((8, 8), "uint8"), "there is none"),
        ([GREY.tolist(), [[1, 2], [3]]], None, "its rows are not equally long"),
        ([GREY.tolist(), [[1, None], [3, 4]]], None, "a number is missing"),
        ([[[[0] * 5] * 5] * 5] * 2, None, r"its numbers have the shape \[5, 5, 5\]: expected height, width and up to"),
        ([png(picture(1)), b""], datasets.Value("binary"), "it is empty"),
        ([png(picture(1)), b"words"], datasets.Value("binary"), "it has no known format of images"),
        ([png(picture(1)), None], datasets.Value("binary"), "there is none"),
    ],
)
def test_row_without_a_picture_is_refused_with_the_reason(
    values: list[Any], feature: Any, reason: str, tmp_path: Path
) -> None:
    folder = write_parquet(tmp_path / "set", train=column_of(values, feature))
    with pytest.raises(UserError, match=rf"row \d of split 'train', column 'image', cannot be .*: {reason}"):
        read(folder)


def test_path_in_parquet_is_read_only_within_the_data(tmp_path: Path) -> None:
    save(tmp_path / "secret.png", 7)
    rows = [{"bytes": None, "path": path} for path in ("in/a.png", str(tmp_path / "secret.png"))]
    folder = write_parquet(
        tmp_path / "set", train=column_of(rows, {"bytes": datasets.Value("binary"), "path": datasets.Value("string")})
    )
    save(folder / "in" / "a.png", 100)
    assert read(folder, on_error="skip") == ([100], ["in/a.png"])
    with pytest.raises(UserError, match="it leads out of"):
        read(folder)


def test_list_of_numbers_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", train=column_of([[1, 2, 3]] * 2, None))
    with pytest.raises(UserError, match=r"column 'image' holds List\(.*\), not images: name another image_column"):
        read(folder)


def test_program_in_the_place_of_a_picture_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    picture(9).save(content, "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(ValueError, match="no known format"), opened(content.getvalue()) as image:
        to_array(image, 8)


# More than 8 bits


def deep(low: int, high: int, size: int = 8) -> np.ndarray:
    return np.linspace(low, high, size * size).reshape(size, size).astype(np.uint16)


def deep_folder(folder: Path, low: int, high: int, count: int = 6) -> Path:
    for row in range(count):
        file = folder / "train" / f"kind{row % 2}" / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(deep(low, high)).save(file)
    return folder


def test_window_follows_the_training_images_and_goes_into_the_checkpoint(tmp_path: Path) -> None:
    folder = deep_folder(tmp_path / "set", 1000, 1200)
    data = ImageDataModule(str(folder), image_size=8, validation_fraction=0.34)
    images = data.read_split("train").inputs
    assert data.window == (1000, 1200)
    assert len(images[0].unique()) == 64

    new = tmp_path / "new"
    new.mkdir()
    for name, values in {"a": deep(1100, 1100), "b": deep(900, 900), "c": deep(5000, 5000)}.items():
        Image.fromarray(values).save(new / f"{name}.png")
    restored = ImageDataModule("moved away", predict_path=str(new))
    data.setup("fit")
    _ = data.normalisation
    restored.load_state_dict(data.state_dict())
    assert shades(torch.cat([batch.images for batch in restored.predict_dataloader()])) == [
        127,
        0,
        255,
    ]  # 127.5, but for percentiles


def test_window_asked_for_wins_over_the_checkpoints_and_is_another_entry_of_the_cache(tmp_path: Path) -> None:
    folder = deep_folder(tmp_path / "set", 0, 4095)
    measured = ImageDataModule(str(folder), image_size=8)
    asked = ImageDataModule(str(folder), image_size=8, window=(0, 40950))
    assert measured.read_split("train").inputs.max() == 255
    assert asked.read_split("train").inputs.max() == 26  # 25.5
    asked.load_state_dict({**measured.state_dict(), "place": {}})
    assert asked.window == (0, 40950)
    with pytest.raises(UserError, match=r"data.window is \[5, 5\]: expected a number and a higher one"):
        ImageDataModule(str(folder), window=(5, 5))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.array([0.0, 0.5])], (0, 1)),
        ([np.array([0, 1])], (0, 1)),
        ([np.array([0, 16])], (0, 255)),
        ([np.array([0.5, 16])], (0.5, 16)),
        ([np.array([-1000, 3000])], (-1000, 3000)),
        ([np.array([np.nan, 2.5, np.inf, 3.5])], (2.5, 3.5)),
        ([np.array([7, 7]), np.array([300, 300])], (7, 300)),
        # One dead pixel in ten thousand is no reason to see nothing else.
        ([np.append(np.tile([1000, 1200], 5000), 65535)], (1000, 1200)),
        # Bright points on black that are fewer still are all that there is to see.
        ([np.append(np.zeros(9_999), 500)], (0, 500)),
        ([], None),
    ],
)
def test_window_is_a_range_that_all_know_or_that_of_the_values(values: list[np.ndarray], expected: Any) -> None:
    found = measure_window(values)
    assert found == (expected if expected is None else pytest.approx(expected, abs=0.02, rel=0.01))


def test_values_outside_the_window_are_black_and_white() -> None:
    values = np.array([-5.0, 0, 5, 10, 99, np.nan, np.inf])
    assert to_bytes(values, (0, 10)).tolist() == [0, 0, 128, 255, 255, 0, 255]
    assert to_bytes(np.arange(256), (0, 255)).tolist() == [*range(256)]
    assert to_bytes(np.full(2, 7), (7, 7)).tolist() == [0, 0]


def deep_png(colours: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, which Pillow cannot write."""
    height, width, channels = colours.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_keep_their_shades(channels: int, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(deep_png(np.stack([deep(1000, 1063)] * channels, -1)))
    pictures = FilePictures([file], tmp_path)
    window = typical_window(pictures)
    assert window == (1000, 1063)
    [image] = decode_all(pictures, ImageShape(8, window), "raise")[0]
    assert len(image[0].unique()) == 64
    assert torch.equal(image[0], image[2])


def test_picture_of_16_bits_that_a_program_gives_twice_is_the_same_picture() -> None:
    content = deep_png(np.stack([deep(1000, 1200)] * 3, -1))
    with Image.open(io.BytesIO(content)) as image:
        first, second = (to_array(image, 8, (1000.0, 1200.0)) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.max() > 200


def test_colours_of_16_bits_of_which_little_can_be_read_are_refused(tmp_path: Path) -> None:
    head = b"P6 8 8 65535\n"
    for name, high in (("dark", 255), ("bright", 65535)):
        (tmp_path / f"{name}.ppm").write_bytes(head + np.stack([deep(0, high)] * 3, -1).astype(">u2").tobytes())
    assert shades(decode_all(FilePictures([tmp_path / "bright.ppm"], tmp_path), ImageShape(8), "raise")[0]) == [146]
    with pytest.raises(UserError, match=r"dark\.ppm cannot be decoded .* the higher 8 can be read, which are nearly a"):
        decode_all(FilePictures([tmp_path / "dark.ppm"], tmp_path), ImageShape(8), "raise")


def test_deep_picture_that_no_sample_had_is_seen_whole_and_said(tmp_path: Path) -> None:
    Image.fromarray(deep(0x8000, 0x8000)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="more than 8 bits, which none of the sampled training images had"):
        assert shades(decode_all(FilePictures([tmp_path / "a.png"], tmp_path), ImageShape(8), "raise")[0]) == [128]


# Damage


def damaged_folder(folder: Path) -> Path:
    for row in range(8):
        save(folder / "train" / f"kind{row % 2}" / f"{row}.png", 10 * row)
    (folder / "train" / "kind1" / "3.png").write_bytes(b"no picture")
    (folder / "train" / "kind0" / "4.png").write_bytes(b"")
    return folder


def test_damaged_file_is_named_by_its_path_and_split_with_the_way_out(tmp_path: Path) -> None:
    folder = damaged_folder(tmp_path / "set")
    with pytest.raises(
        UserError,
        match=r"^train/kind0/4\.png of split 'train' cannot be decoded as an image: it is empty; replace it, or leave"
        r" such images out by data\.on_error skip$",
    ):
        read(folder)


def test_damaged_images_are_left_out_counted_listed_and_recorded_if_asked(tmp_path: Path) -> None:
    folder = damaged_folder(tmp_path / "set")
    data = ImageDataModule(str(folder), on_error="skip", validation_fraction=0.34)
    with pytest.warns(UserWarning, match=r"2 of 8 examples of train .* are left out: train/kind0/4\.png \(it is empty"):
        data.prepare_data()
    data.setup("fit")
    split = data._split("train")
    assert shades(split.inputs) == [0, 20, 60, 10, 50, 70]
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(split.names)[2] == "train/kind0/6.png"
    assert data.facts["train_examples"] + data.facts["validation_examples"] == 6
    assert data.facts["left_out"]["train"][1] == {
        "name": "train/kind1/3.png",
        "reason": "it has no known format of images, or a damaged head",
    }


def test_images_left_out_by_an_earlier_run_are_refused_again_where_none_may_be(tmp_path: Path) -> None:
    folder = damaged_folder(tmp_path / "set")
    assert len(read(folder, on_error="skip")[0]) == 6
    with pytest.raises(UserError, match=r"kind0/4\.png of split 'train' cannot be decoded"):
        read(folder)
    save(folder / "train" / "kind0" / "4.png", 40)
    save(folder / "train" / "kind1" / "3.png", 30)
    assert len(read(folder)[0]) == 8


def test_data_without_a_readable_image_are_refused(tmp_path: Path) -> None:
    folder = table(tmp_path / "set", "image,label\na.png,0\na.png,1\n")
    (folder / "a.png").write_bytes(b"no picture")
    for size in (8, None):
        with pytest.raises(UserError, match=r"none of 2 images can be read: a\.png: it has no known format"):
            ImageDataModule(str(folder), image_size=size, on_error="skip").read_split("train")


def test_rows_that_follow_a_row_left_out_keep_their_numbers(tmp_path: Path) -> None:
    values = [png(picture(10)), b"", png(picture(30))]
    folder = write_parquet(tmp_path / "set", train=column_of(values, datasets.Value("binary")))
    assert read(folder, on_error="skip") == ([10, 30], [0, 2])


def test_unknown_treatment_of_errors_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.on_error is ignore: expected raise or skip"):
        ImageDataModule("set", on_error="ignore")  # type: ignore[arg-type]


def test_file_replaced_with_its_time_stamp_kept_is_read_anew(tmp_path: Path) -> None:
    folder = table(tmp_path / "set", "image,label\na.bmp,0\na.bmp,1\n")
    file = save(folder / "a.bmp", 10)
    assert read(folder)[0] == [10, 10]
    before = file.stat()
    picture(200).save(folder / "b.bmp")
    (folder / "b.bmp").replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read(folder)[0] == [200, 200]


# What is predicted


def test_folder_to_predict_is_read_as_people_have_it(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for name, shade in {"b.ppm": 20, "a.jfif": 10, "sub.png/c.webp": 30, "sub.png/C.TIF": 25, "e.qoi": 40}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(shade).save(file, {".jfif": "JPEG", ".TIF": "TIFF"}.get(file.suffix))
    save(tmp_path / "elsewhere" / "d.png", 50)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "z.png").symlink_to(tmp_path / "elsewhere" / "d.png")
    (folder / "link" / "back").symlink_to(folder)
    for name in ("._a.png", "__MACOSX/a.png", ".ipynb_checkpoints/a.png", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no picture")
        assert predicted(folder) == (
            [10, 20, 40, 50, 25, 30, 50],
            ["a.jfif", "b.ppm", "e.qoi", "link/d.png", "sub.png/C.TIF", "sub.png/c.webp", "z.png"],
        )


def test_broken_link_is_a_damaged_picture_and_no_lost_one(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    save(folder / "a.png", 10)
    (folder / "b.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"new/b\.png cannot be decoded as an image: there is no such file"):
        predicted(folder)
    with pytest.warns(UserWarning, match=r"1 of 2 examples of .*new cannot be read and are left out: b\.png \(there"):
        assert predicted(folder, on_error="skip") == ([10], ["a.png"])


def test_table_of_pictures_is_predicted_in_its_order_by_the_names_in_it(tmp_path: Path) -> None:
    save(tmp_path / "new" / "pictures" / "10.png", 10)
    save(tmp_path / "new" / "pictures" / "9.png", 9)
    (tmp_path / "new" / "sample.tsv").write_text("id\tweight\n10\t1\n9\t2\n10\t3\n")
    options = {"image_column": "id", "image_folder": "pictures"}
    expected = ([10, 9, 10], ["10", "9", "10"])
    assert predicted(tmp_path / "new" / "sample.tsv", **options) == expected
    with pytest.raises(UserError, match=r"sample\.tsv' has no column 'image': its columns are id, weight; name one by"):
        predicted(tmp_path / "new" / "sample.tsv")


def test_folder_of_a_table_of_encoded_pictures_is_predicted_by_row(tmp_path: Path) -> None:
    dataset = column_of([png(picture(10)), png(picture(20))], datasets.Value("binary")).remove_columns("label")
    folder = write_parquet(tmp_path / "set", test=dataset)
    assert predicted(folder / "data") == ([10, 20], [0, 1])
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert predicted(tmp_path / "saved") == ([10, 20], [0, 1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.png",
            None,
            r"data\.predict_path 'a\.png' does not exist: expected a picture, a folder of pictures or a ta",
        ),
        ("a.pdf", b"%PDF", r"data\.predict_path 'a\.pdf' is no picture and no table: expected a suffix such as \.png"),
        ("a.csv", b"image\n", r"data\.predict_path 'a\.csv' has no rows: expected pictures"),
        ("a.csv", b"", r"data\.predict_path 'a\.csv' has no rows: expected pictures"),
        ("a.png", b"", r"none of 1 images can be read: a\.png: it is empty"),
    ],
)
def test_what_holds_no_picture_to_predict_is_refused(name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        predicted(name, on_error="skip")


def test_one_picture_can_be_predicted(tmp_path: Path) -> None:
    assert predicted(save(tmp_path / "a.png", 10)) == ([10], ["a.png"])


def test_folder_without_pictures_is_refused_with_the_suffixes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no images: expected files named .*\.jfif, .*\.ppm"):
        pictures_to_predict(str(tmp_path), "image")


def test_folder_that_leads_into_itself_ends(tmp_path: Path) -> None:
    save(tmp_path / "set" / "a.png", 1)
    (tmp_path / "set" / "self").symlink_to(tmp_path / "set")
    assert pictures_below(tmp_path / "set") == [tmp_path / "set" / "a.png"]
