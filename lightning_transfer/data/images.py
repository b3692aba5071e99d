"""Image classification data: decoded once into an array of bytes, served in whole batches."""

import os
from typing import Any, Literal, NamedTuple, cast

import datasets
import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data import demo_images, hub
from lightning_transfer.data.augment import Augmentation
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.data.decoding import decode_column, decode_folder
from lightning_transfer.data.loader import BatchLoader, ordered_batches, shuffled_batches
from lightning_transfer.data.splits import split_train_validation
from lightning_transfer.errors import UserError


class ImageSplit(NamedTuple):
    """All of a split, in memory or memory-mapped.

    Attributes:
        images: uint8 [rows, 3, height, width].
        labels: int64 [rows], -1 where unknown.
        fingerprint: Changes with the data.
    """

    images: Tensor
    labels: Tensor
    fingerprint: str


class ImageDataModule(L.LightningDataModule):
    """Image classification from any data set with an image column and a label column.

    Images are decoded once, brought to ``image_size`` (largest centred square, resized), and kept as bytes in a
    memory-mapped cache. Batches are augmented and normalised on the device. Validation is a stratified hold-out of
    the training split; the test split is only ever read by ``test`` and ``predict``.

    Args:
        path: A Hub id or a folder. Hub ids are looked up in the folder that LIGHTNING_TRANSFER_MIRROR names, if any.
        image_column: The column of the images.
        label_column: The column of the labels: class labels, or integers from 0.
        train_split: The split to train and validate on.
        test_split: The split to test on.
        image_size: Height and width of the images in pixels.
        batch_size: Training examples in a batch, over all devices together.
        eval_batch_size: Examples in a batch on each device in validation, test and prediction.
        validation_fraction: Share of each class of the training split that is held out for validation.
        train_fraction: Share of the rest of each class to train on. A smaller one is a subset of a larger one.
        examples_per_class: Training examples of each class, in place of train_fraction; nested likewise.
        split_seed: Seed of the hold-out and of the cut of the training set.
        mean: Mean of each channel, for pixels from 0 to 1, subtracted from every image.
        std: Standard deviation of each channel, by which every image is then divided.
        augmentation: Random changes to training images.
        predict_path: A folder of images for ``predict``; the test split if not given.

    Raises:
        UserError: For values out of range, and data that is missing or not as described.
    """

    def __init__(
        self,
        path: str,
        image_column: str = "image",
        label_column: str = "label",
        train_split: str = "train",
        test_split: str = "test",
        image_size: int = 32,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        validation_fraction: float = 0.1,
        train_fraction: float = 1.0,
        examples_per_class: int | None = None,
        split_seed: int = 0,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        augmentation: Augmentation | None = None,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        sizes = {"image_size": image_size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"data.{name} is {value}: expected 1 or more")
        if min(std) <= 0:
            raise UserError(f"data.std is {list(std)}: expected numbers above 0")
        self.path = path
        self.image_column = image_column
        self.label_column = label_column
        self.train_split = train_split
        self.test_split = test_split
        self.image_size = image_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation_fraction = validation_fraction
        self.train_fraction = train_fraction
        self.examples_per_class = examples_per_class
        self.split_seed = split_seed
        # (bytes / 255 - mean) / std in one multiplication and one addition.
        self._scale = 1 / (255 * torch.tensor(std)).view(3, 1, 1)
        self._shift = (-torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1)
        self.augmentation = augmentation
        self.predict_path = predict_path
        self.predict_names: list[str] | None = None
        self._class_names: list[str] | None = None
        self._splits: dict[str, ImageSplit] = {}
        self._train_loader: BatchLoader | None = None
        self._resume_at: dict[str, int] = {}
        self._train_rows = self._validation_rows = np.empty(0, np.int64)

    @property
    def class_names(self) -> list[str]:
        """The name of each class, in the order of the labels."""
        if self._class_names is None:
            self._class_names = self.read_class_names()
        return self._class_names

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def facts(self) -> dict[str, Any]:
        """What a record of a run says of its data: fingerprints of the splits read and numbers of examples."""
        fingerprints = {name: split.fingerprint for name, split in self._splits.items()}
        train, validation = len(self._train_rows), len(self._validation_rows)
        return {"fingerprints": fingerprints, "train_examples": train, "validation_examples": validation}

    def read_class_names(self) -> list[str]:
        """Reads the names of the training split's class labels; integers are named by themselves, up to the largest."""
        dataset = self._open(self.train_split)
        feature = dataset.features[self.label_column]
        if isinstance(feature, datasets.ClassLabel):
            return list(feature.names)
        return [str(label) for label in range(int(_integer_labels(dataset, self.label_column).max()) + 1)]

    def read_split(self, split: str) -> ImageSplit:
        """Reads a split whole; its images come from the cache once they have been decoded."""
        dataset = self._open(split)
        labels = _integer_labels(dataset, self.label_column)
        wrong = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(wrong):
            raise UserError(
                f"label {labels[wrong[0]]} in row {wrong[0]} of split {split!r} is out of range:"
                f" expected 0 to {self.num_classes - 1}"
            )
        images = decode_column(dataset, self.image_column, self.image_size)
        return ImageSplit(images, torch.from_numpy(labels), dataset._fingerprint)

    def prepare_data(self) -> None:
        """Decodes the training split where it is not in the cache yet, in one process of each node."""
        self.read_split(self.train_split)

    def setup(self, stage: str) -> None:
        """Reads the splits of the stage and divides the training split."""
        if stage in ("fit", "validate"):
            labels = self._split(self.train_split).labels.numpy()
            self._train_rows, self._validation_rows = split_train_validation(
                labels,
                validation_fraction=self.validation_fraction,
                train_fraction=self.train_fraction,
                examples_per_class=self.examples_per_class,
                seed=self.split_seed,
            )

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training set in random order."""
        batches = shuffled_batches(
            self._train_rows, batch_size=self.batch_size, seed=_run_seed(), **self._rank_and_world_size()
        )
        self._train_loader = self._loader(self._split(self.train_split), batches)
        self._train_loader.load_state_dict(self._resume_at)
        self._resume_at = {}
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        """Batches of the hold-out in order."""
        return self._eval_loader(self._split(self.train_split), self._validation_rows)

    def test_dataloader(self) -> BatchLoader:
        """Batches of the test split in order."""
        split = self._split(self.test_split)
        return self._eval_loader(split, np.arange(len(split.labels)))

    def predict_dataloader(self) -> BatchLoader:
        """Batches of the images in ``predict_path`` in the order of their names, else of the test split."""
        if self.predict_path is None:
            return self.test_dataloader()
        self.predict_names, images = decode_folder(self.predict_path, self.image_size)
        split = ImageSplit(images, torch.full((len(images),), -1), "")
        return self._eval_loader(split, np.arange(len(images)))

    def state_dict(self) -> dict[str, Any]:
        """The place in the training set."""
        return self._train_loader.state_dict() if self._train_loader else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes training go on from a saved place.

        Lightning restores loaders as well, but not where anything asked for ``estimated_stepping_batches`` before.
        """
        self._resume_at = state_dict

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Augments training images and normalises all, on the device: only bytes were transferred."""
        images = batch.images
        if self.augmentation is not None and self.trainer is not None and self.trainer.training:
            epoch = self.trainer.current_epoch
            images = self.augmentation(images, batch.indices, seed=_run_seed(), epoch=epoch)
        scale, shift = self._scale.to(images.device), self._shift.to(images.device)
        return batch._replace(images=images.float().mul_(scale).add_(shift))

    def _open(self, split: str) -> datasets.Dataset:
        return hub.load_split(self.path, split, (self.image_column, self.label_column))

    def _split(self, name: str) -> ImageSplit:
        if name not in self._splits:
            self._splits[name] = self.read_split(name)
        return self._splits[name]

    def _loader(self, split: ImageSplit, batches: Any) -> BatchLoader:
        def fetch(rows: np.ndarray) -> ImageBatch:
            indices = torch.from_numpy(rows)
            return ImageBatch(split.images[indices], split.labels[indices], indices)

        return BatchLoader(fetch, batches)

    def _eval_loader(self, split: ImageSplit, rows: np.ndarray) -> BatchLoader:
        return self._loader(
            split, ordered_batches(rows, batch_size=self.eval_batch_size, **self._rank_and_world_size())
        )

    def _rank_and_world_size(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}


class CIFAR10(ImageDataModule):
    """CIFAR-10: 60,000 colour images of 32 x 32 pixels in ten classes. Source: Krizhevsky, 2009."""

    def __init__(
        self,
        path: str = "uoft-cs/cifar10",
        image_column: str = "img",
        mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465),
        std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616),
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, image_column=image_column, mean=mean, std=std, **kwargs)


class CIFAR100(ImageDataModule):
    """CIFAR-100: colour images of 32 x 32 pixels in 100 fine classes of 20 coarse ones. Source: Krizhevsky, 2009.

    Args:
        labels: Whether to learn the 100 fine classes or the 20 coarse ones.
    """

    def __init__(
        self,
        path: str = "uoft-cs/cifar100",
        labels: Literal["fine", "coarse"] = "fine",
        image_column: str = "img",
        mean: tuple[float, float, float] = (0.5071, 0.4866, 0.4409),
        std: tuple[float, float, float] = (0.2673, 0.2564, 0.2762),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            path=path, image_column=image_column, label_column=f"{labels}_label", mean=mean, std=std, **kwargs
        )


class DemoImages(ImageDataModule):
    """Generated images that need no download: a source task and a smaller, related target task.

    Args:
        task: Which of the two tasks.
    """

    def __init__(self, task: Literal["source", "target"] = "source", **kwargs: Any) -> None:
        super().__init__(path="embedded", **kwargs)
        self.task = task

    def read_class_names(self) -> list[str]:
        """The names of the task's classes."""
        return list(demo_images.TASKS[self.task])

    def read_split(self, split: str) -> ImageSplit:
        """Generates a split."""
        images, labels = demo_images.generate(self.task, cast(Literal["train", "test"], split))
        return ImageSplit(torch.from_numpy(images), torch.from_numpy(labels), f"embedded/{self.task}/{split}")


def _integer_labels(dataset: datasets.Dataset, column: str) -> np.ndarray:
    labels = np.asarray(dataset.with_format("numpy")[column][:])
    if labels.dtype.kind not in "iu":
        raise UserError(f"label column {column!r} holds {labels.dtype}, not integers: name another label_column")
    return labels.astype(np.int64)


def _run_seed() -> int:
    # What seed_everything leaves behind for every process of a run.
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
