"""Image data: any data set by its columns, real CIFAR, pictures of any kind."""

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import image_dataset, write_parquet
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_transfer import CIFAR10, CIFAR100, DemoImages, ImageDataModule
from lightning_transfer.data.augment import Augmentation
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.data.decoding import ImageShape, decode_all, to_array
from lightning_transfer.data.pictures.to_predict import pictures_to_predict
from lightning_transfer.errors import UserError


def fitted(data: ImageDataModule) -> ImageDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def predicted(path: Path, size: int) -> Tensor:
    return decode_all(pictures_to_predict(str(path), "image"), ImageShape(size), "raise")[0]


def test_pixels_and_labels_are_those_of_the_data_set(image_folder: Path) -> None:
    split = CIFAR10(path=str(image_folder)).read_split("train")
    expected = image_dataset(90)
    assert split.inputs.shape == (90, 3, 32, 32)
    assert split.labels.tolist() == expected["label"][:]
    for row in (0, 17, 89):
        assert np.array_equal(split.inputs[row].permute(1, 2, 0).numpy(), np.asarray(expected[row]["img"]))


def test_training_and_validation_batches_share_no_row(image_folder: Path) -> None:
    data = fitted(CIFAR10(path=str(image_folder), batch_size=9))
    train = torch.cat([batch.indices for batch in data.train_dataloader()]).tolist()
    validation = torch.cat([batch.indices for batch in data.val_dataloader()]).tolist()
    assert len(train) == 81
    assert len(validation) == 9
    assert not set(train) & set(validation)


def test_integer_labels_name_their_classes(tmp_path: Path) -> None:
    dataset = image_dataset(30).cast_column("label", datasets.Value("int64"))
    folder = write_parquet(tmp_path / "set", train=dataset, test=dataset)
    assert CIFAR10(path=str(folder)).class_names == ["0", "1", "2"]


def test_class_folders_are_a_data_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for row, (image, label) in enumerate(zip(*(image_dataset(12)[c] for c in ("img", "label")), strict=True)):
            file = tmp_path / "set" / split / f"kind{label}" / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
    data = fitted(ImageDataModule(str(tmp_path / "set"), batch_size=3, validation_fraction=0.25))
    assert data.class_names == ["kind0", "kind1", "kind2"]
    assert len(data.train_dataloader()) == 3


def test_column_that_is_not_an_image_is_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match=r"column 'label' holds .*, not images"):
        CIFAR10(path=str(image_folder), image_column="label").read_split("train")


def test_column_that_is_not_a_label_is_refused(tmp_path: Path) -> None:
    dataset = image_dataset(6).remove_columns("label").add_column("label", [f"text{i}" for i in range(6)])
    folder = write_parquet(tmp_path / "set", train=dataset)
    with pytest.raises(
        UserError, match=r"label column 'label' of split 'train' holds another word in each row: name another"
    ):
        _ = CIFAR10(path=str(folder)).class_names


def test_picture_of_real_numbers_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30), 0.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff cannot be decoded as an image: it holds real numbers"):
        predicted(tmp_path, 16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_picture_of_any_mode_becomes_three_channels(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 0x8000, np.uint16))
    else:
        image = Image.new("RGB", (30, 20), (128, 128, 128)).convert(mode)
    array = to_array(image, 16)
    assert array.shape == (3, 16, 16)
    assert array.dtype == np.uint8
    if mode != "1":
        assert abs(int(array.mean()) - 128) < 5


def test_picture_is_cropped_in_the_middle_and_turned_as_the_camera_says() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 8:32] = 255  # the middle square and what bicubic resizing sees around it
    assert to_array(Image.fromarray(pixels), 10).min() == 255
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    turned = to_array(image, 8)
    assert (turned[:, :, 7] == 255).all()
    assert (turned[:, :, :7] == 0).all()


def test_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        predicted(tmp_path / "nowhere", 32)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="has no images"):
        predicted(tmp_path, 32)
    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.png cannot be decoded"):
        predicted(tmp_path, 32)


def image_column(images: list[Image.Image | dict | None]) -> datasets.Dataset:
    """Images as given: decoded, as bytes, or none."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})
    labels = [row % 2 for row in range(len(images))]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


@pytest.mark.parametrize("image_size", [16, None])
def test_row_without_an_image_is_refused_by_its_number(image_size: int | None, tmp_path: Path) -> None:
    images = [Image.new("RGB", (16, 16))] * 200
    folder = write_parquet(tmp_path / "set", train=image_column([*images[:6], None, *images[7:]]))
    with pytest.raises(
        UserError,
        match="the image in row 6 of split 'train', column 'image', cannot be decoded as an image: there is none",
    ):
        ImageDataModule(str(folder), image_size=image_size).read_split("train")


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bitmap(width: int, height: int) -> bytes:
    return struct.pack("<2sIIIIiiHHIIIIII", b"BM", 0, 0, 54, 40, width, height, 1, 24, *[0] * 6)


HEADER = (b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
DAMAGED = {
    "a truncated file": png(HEADER, (b"IDAT", zlib.compress(bytes(16)))),
    "a chunk without a name": png(HEADER, (b"IDAT", zlib.compress(bytes(16))), (bytes(4), b"")),
    "a header cut short": png((b"IHDR", bytes(4))),
    "more pixels than memory": bitmap(50_000, 50_000),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_image_is_refused_by_its_row_or_file(damage: str, tmp_path: Path) -> None:
    images = [Image.new("RGB", (16, 16)), {"bytes": DAMAGED[damage], "path": None}]
    folder = write_parquet(tmp_path / "set", train=image_column(images))
    with pytest.raises(
        UserError, match="the image in row 1 of split 'train', column 'image', cannot be decoded as an image: "
    ):
        ImageDataModule(str(folder), image_size=16).read_split("train")
    (tmp_path / "damaged.png").write_bytes(DAMAGED[damage])
    with pytest.raises(UserError, match=r"damaged\.png cannot be decoded as an image: "):
        predicted(tmp_path, 16)


def test_image_that_cannot_be_converted_is_refused_by_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise SyntaxError("not a TIFF file (header b'' not valid)")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    folder = write_parquet(tmp_path / "set", train=image_column([Image.new("RGB", (16, 16))] * 2))
    with pytest.raises(
        UserError,
        match=r"the image in row 0 of split 'train', column .* cannot be decoded as an image: not a TIFF file",
    ):
        ImageDataModule(str(folder), image_size=16).read_split("train")


@pytest.mark.mirror
@pytest.mark.usefixtures("mirror")
def test_real_cifar10_has_its_sizes_and_a_balanced_hold_out() -> None:
    data = fitted(CIFAR10())
    assert data.class_names[:3] == ["airplane", "automobile", "bird"]
    assert data.facts["train_examples"] == 45_000
    labels = torch.cat([batch.labels for batch in data.val_dataloader()])
    assert torch.bincount(labels).tolist() == [500] * 10
    images = data.read_split("train").inputs
    channel_means = images.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(channel_means, torch.tensor([0.4914, 0.4822, 0.4465]), rtol=0, atol=1e-3)


@pytest.mark.mirror
@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize(("labels", "classes"), [("fine", 100), ("coarse", 20)])
def test_real_cifar100_has_fine_and_coarse_labels(labels: str, classes: int) -> None:
    data = fitted(CIFAR100(labels=labels, examples_per_class=10))
    assert data.num_classes == classes
    assert data.facts["train_examples"] == 10 * classes
    rows = torch.cat([batch.labels for batch in data.train_dataloader()])
    assert rows.max() < classes


def test_split_stays_in_memory_where_there_is_no_accelerator(image_folder: Path) -> None:
    data = fitted(CIFAR10(str(image_folder)))
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    assert data.batch_maker(data._split("train"))(np.arange(4)).images.device.type == "cpu"
    assert not data._on_device


def test_size_and_normalisation_follow_the_data_and_the_checkpoint(tmp_path: Path) -> None:
    images = [Image.new("RGB", (40 + row, 24), (51, 102, 10 * row)) for row in range(6)]
    columns = {"image": images, "label": [0, 1] * 3}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})
    dataset = datasets.Dataset.from_dict(columns, features=features)
    folder = write_parquet(tmp_path / "set", train=dataset, test=dataset)
    data = fitted(ImageDataModule(str(folder), validation_fraction=0.34))
    assert data.image_size == 24
    mean, std = (values.flatten() for values in data.normalisation)
    blues = torch.arange(6) * 10 / 255
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.4, blues.mean()]))
    torch.testing.assert_close(std, torch.tensor([1 / 255, 1 / 255, blues.std(correction=0)]))

    restored = ImageDataModule("moved away")  # as predict has it: nothing but the checkpoint
    restored.load_state_dict(data.state_dict())
    assert restored.image_size == 24
    torch.testing.assert_close(restored.normalisation, data.normalisation, rtol=0, atol=0)
    pixels = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8)
    torch.testing.assert_close(restored.to_pixels(restored._normalise(pixels)), pixels.float())
    by_hand = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(restored._normalise(pixels), by_hand)


def test_training_images_alone_are_augmented_anew_in_each_epoch() -> None:
    data = fitted(DemoImages("target", augmentation=Augmentation(crop_padding=8)))
    trainer = SimpleNamespace(current_epoch=0, strategy=None, global_rank=0, world_size=1, overfit_batches=0)
    training = next(iter(data.train_dataloader()))
    data.trainer = trainer
    trainer.precision_plugin = SimpleNamespace(convert_input=lambda batch: batch)
    seen = []
    for trainer.current_epoch in (0, 1):
        seen.append(data.on_after_batch_transfer(training, 0).images)
    plain = ImageBatch(*training)
    assert not torch.equal(*seen)
    assert torch.equal(data.on_after_batch_transfer(plain, 0).images, data._normalise(training.images))


def squares(folder: Path, side: int) -> str:
    return str(write_parquet(folder, train=image_column([Image.new("RGB", (side, side), (side, 0, 0))] * 4)))


@pytest.mark.parametrize(("asked_for", "expected"), [(None, 16), (24, 24), (8, 8)])
def test_size_of_the_checkpoint_wins_over_a_measured_one_but_not_over_that_asked_for(
    asked_for: int | None, expected: int, tmp_path: Path
) -> None:
    trained = fitted(ImageDataModule(squares(tmp_path / "trained", 16)))
    data = fitted(ImageDataModule(squares(tmp_path / "other", 24), image_size=asked_for, validation_fraction=0.5))
    assert data.image_size == (asked_for or 24)
    data.load_state_dict(trained.state_dict())  # as Lightning does it: after prepare_data and setup
    assert data.image_size == expected
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        assert batch.images.shape[2:] == (expected, expected)


@pytest.mark.parametrize("undo", [False, True])
def test_scale_and_shift_are_sent_to_a_device_once(undo: bool) -> None:
    # The device of no memory: what is computed there has no values, only a place.
    data, images = DemoImages(), torch.empty(2, 3, 4, 4, device="meta", dtype=torch.uint8)
    normalise = data.to_pixels if undo else data._normalise
    sent: list[torch.device] = []

    class Copies(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            result = function(*arguments, **(options or {}))
            if function is Tensor.to and arguments[0].device != result.device:
                sent.append(result.device)
            return result

    with Copies():
        assert all(normalise(images).device.type == "meta" for _ in range(3))
    assert len(sent) == 2
    assert normalise(images.new_zeros(images.shape, device="cpu")).device.type == "cpu"


def test_large_images_are_brought_to_what_pretrained_weights_have_seen(tmp_path: Path) -> None:
    image = {"image": [Image.new("RGB", (300, 400))] * 4, "label": [0, 1] * 2}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})
    folder = write_parquet(tmp_path / "set", train=datasets.Dataset.from_dict(image, features=features))
    assert ImageDataModule(str(folder)).image_size == 224


def test_generated_images_come_in_the_size_asked_for() -> None:
    own, larger = (DemoImages("target", image_size=size).read_split("train").inputs for size in (32, 64))
    assert larger.shape == (300, 3, 64, 64)
    assert larger.dtype == torch.uint8
    difference = torch.nn.functional.avg_pool2d(larger.float(), 2) - own
    assert difference.abs().mean() < 5  # grey levels
    assert (own.float() - own.float().mean()).abs().mean() > 30


def test_data_with_other_classes_than_the_checkpoint_is_refused_where_labels_count() -> None:
    trained = DemoImages("source").state_dict()
    message = "the checkpoint's classes are circle, .*, and the data's arrow, bolt, .*: give data with the same"
    data = DemoImages("target")
    data.load_state_dict(trained)
    data.setup("predict")  # of images without labels
    for stage in ("validate", "test"):
        with pytest.raises(UserError, match=message):
            data.setup(stage)
    read = DemoImages("target")
    assert read.num_classes == 6
    with pytest.raises(UserError, match=message):
        read.load_state_dict(trained)
