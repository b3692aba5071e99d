"""Image classification data: decoded once into an array of bytes, served in whole batches."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_transfer.data import hub
from lightning_transfer.data.augment import Augmentation
from lightning_transfer.data.batches import ImageBatch, TrainingImageBatch, TwoViewBatch
from lightning_transfer.data.classification import ClassificationDataModule, require_at_least
from lightning_transfer.data.decoding import ImageShape, decode, decode_all, typical_size, typical_window
from lightning_transfer.data.keyword_arguments import BatchedClassificationOptions
from lightning_transfer.data.left_out import OnError, warn_of_left_out
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.data.memory import require_memory
from lightning_transfer.data.mixing import Mixing
from lightning_transfer.data.near_duplicates import find_near_duplicates
from lightning_transfer.data.normalisation import channel_statistics, preprocessing_of_weights
from lightning_transfer.data.overlap import Role
from lightning_transfer.data.pictures.given import GivenPictures
from lightning_transfer.data.pictures.locating import folders_of_names
from lightning_transfer.data.pictures.sequences import ColumnPictures, Pictures
from lightning_transfer.data.pictures.to_predict import pictures_to_predict
from lightning_transfer.data.pictures.windows import Window
from lightning_transfer.data.private_examples import refuse_sample, refuse_what_tells, require_given
from lightning_transfer.data.splits import Split, evenly_spaced
from lightning_transfer.data.views import Views
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords

LARGEST_SIZE = 224  # pixels, of images whose size was not asked for: what most pretrained weights have seen


class ImageDataModule(ClassificationDataModule[Tensor]):
    """Image classification from any data set with an image column and a label column.

    Images are decoded once, brought to ``image_size`` (largest centred square, resized), and kept as bytes in a
    memory-mapped cache. Batches are augmented and normalised on the device.

    Args:
        image_column: The column of the images: encoded ones, lists of numbers (height x width, with or without
            channels), or the names of files, with or without suffix. Names are relative to the folder of the data.
        image_size: Height and width of the images in pixels. If not given, the median of the shorter sides in a sample
            of the training split, and at most 224.
        mean: Mean of each channel, for pixels from 0 to 1, subtracted from every image. If not given, that of a sample
            of the training split.
        std: Standard deviation of each channel, by which every image is then divided; likewise.
        normalise_as: Name of weights of torchvision or timm, for example ResNet18_Weights.IMAGENET1K_V1 or
            timm/resnet18: takes the mean and std that they were trained with in place of ``mean`` and ``std``. Those of
            timm also say how images are resized, and to what size where ``image_size`` has no value. Those of
            ``--init_from`` if not given.
        augmentation: Random changes to training images.
        mixing: Mixup or CutMix of training images, once augmented and normalised.
        views: Two random views of each training image in place of both, for SelfSupervisedModule; their labels are left
            out.
        near_duplicate_bits: Counts images of the validation and test split that look like a training image: those of
            whose perceptual hash at most so many of the 64 bits differ. 4 finds scaled and newly compressed copies.
        window: The values that become black and white, in images with more than 8 bits and in lists of numbers. If not
            given, it follows from a sample of the training split, and every checkpoint has it. Numbers from 0 to 1 keep
            that range, and so do whole numbers from 0 to 255. Of others it is the 0.1th and the 99.9th percentile.
        image_folder: The folder that names of files in a table are relative to; ``{split}`` in it becomes the name of
            the split.
        predict_path: What ``predict`` reads in place of the test split: an image, a folder with images in it or below
            it, or a table with the image column.
    """

    def __init__(
        self,
        path: str,
        image_column: str = "image",
        image_size: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        normalise_as: str | None = None,
        augmentation: Augmentation | None = None,
        mixing: Mixing | None = None,
        views: Views | None = None,
        near_duplicate_bits: int | None = None,
        window: Window | None = None,
        image_folder: str | None = None,
        predict_path: str | None = None,
        **kwargs: Keywords[BatchedClassificationOptions],
    ) -> None:
        super().__init__(path=path, **kwargs)
        if image_size is not None:
            require_at_least(2, image_size=image_size)  # torch cannot resize to 1 x 1
        require_at_least(0, near_duplicate_bits=near_duplicate_bits or 0)
        size, interpolation = image_size, None
        if normalise_as is not None:
            mean, std, size, interpolation = preprocessing_of_weights(normalise_as)
        if self.private:
            refuse_what_tells(mixing=mixing, near_duplicate_bits=near_duplicate_bits)
            require_given("those of the starting weights, or 0.5 three times", mean=mean, std=std)
            require_given("such as 32, or that of the starting weights", image_size=size)
        if std is not None and min(std) <= 0:
            raise UserError(f"data.std is {list(std)}: expected numbers above 0")
        if views is not None and (augmentation is not None or mixing is not None):
            raise UserError("data.views is on: expected null for data.augmentation and data.mixing beside it")
        if window is not None and not window[0] < window[1]:
            raise UserError(f"data.window is {list(window)}: expected a number and a higher one")
        self.image_column = image_column
        self.text_columns = [image_column]  # names of files may be numbers
        self.image_folder = image_folder
        self._window_asked_for = self._window = window
        self._window_is_known = window is not None
        self._size_asked_for, self._image_size = image_size, image_size or size
        self._interpolation = interpolation or "bicubic"
        self._mean: Sequence[float] | None = mean
        self._std: Sequence[float] | None = std
        self._scales_and_shifts: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.augmentation = augmentation
        self.mixing = mixing
        self.views = views
        self.near_duplicate_bits = near_duplicate_bits
        self.predict_path = predict_path

    @property
    def is_augmented(self) -> bool:
        """Whether a training image is another one in every epoch."""
        return any(change is not None for change in (self.augmentation, self.mixing, self.views))

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels: what was asked for, or what the training split suggests."""
        if self._image_size is None:
            _, pictures = self._open_pictures(self.train_split)
            self._image_size = min(typical_size(pictures, self.on_error), LARGEST_SIZE)
        return self._image_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that a network is given."""
        return 3, self.image_size, self.image_size

    @property
    def window(self) -> Window | None:
        """The values that become black and white, where images have more than 8 bits: asked for, or measured."""
        if not self._window_is_known:
            _, pictures = self._open_pictures(self.train_split)
            window = typical_window(pictures, self.on_error)
            if self.private and window is not None:
                require_given("the range of values of your device", window=None)
            self._window, self._window_is_known = window, True
        return self._window

    @cached_property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, float32 [3, 1, 1] each: what was asked for, or measured."""
        if self._mean is None or self._std is None:
            mean, std = channel_statistics(self._split(self.train_split).inputs)
            self._mean, self._std = self._mean or mean, self._std or std
        return torch.tensor(self._mean).view(3, 1, 1), torch.tensor(self._std).view(3, 1, 1)

    def _scale_and_shift(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What makes (bytes / 255 - mean) / std one multiplication and one addition."""
        if device not in self._scales_and_shifts:  # sent once: to send them makes the host wait for the step before
            mean, std = self.normalisation
            self._scales_and_shifts[device] = (1 / (255 * std)).to(device), (-mean / std).to(device)
        return self._scales_and_shifts[device]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes the input of the network, in plain types."""
        mean, std = (values.flatten().tolist() for values in self.normalisation)
        return {
            "steps": "RGB, largest centred square, resized, divided by 255, minus mean, divided by std",
            "image_size": self.image_size,
            "interpolation": self._interpolation,
            "mean": mean,
            "std": std,
            "window": None if self._window is None else [*self._window],
        }

    def state_dict(self) -> dict[str, Any]:
        """The place in the training set, the names of the classes, and how images are brought into shape."""
        shape = {"image_size": self._image_size, "mean": self._mean, "std": self._std, "window": self._window}
        return {**super().state_dict(), **shape, "interpolation": self._interpolation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes training go on from a saved place, and predictions see images as the training did."""
        super().load_state_dict(state_dict)
        # Not a size measured meanwhile: that of other data, and known only to the ranks that prepared them.
        size = self._size_asked_for or state_dict.get("image_size") or self._image_size
        saved = state_dict.get("window")
        window = self._window_asked_for or (None if saved is None else (saved[0], saved[1]))
        shape = size, window, state_dict.get("interpolation", self._interpolation)
        if shape != (self._image_size, self._window, self._interpolation):
            self._image_size, self._window, self._interpolation = shape
            self._splits.clear()
        self._window_is_known = True
        self._mean, self._std = self._mean or state_dict.get("mean"), self._std or state_dict.get("std")

    def read_split(self, split: str) -> Split[Tensor]:
        """Reads a split: its images from the cache once they have been decoded."""
        dataset, pictures = self._open_pictures(split)
        self._require_memory(min(self.batch_size, len(pictures)), 4)  # float32
        labels = self.read_labels(dataset, split)
        images, rows, left_out = decode(
            pictures, self._shape(), self.on_error, f"{dataset._fingerprint}/{self.image_column}"
        )
        names = [pictures.names[row] for row in rows]
        return Split(images, labels[torch.from_numpy(rows)], dataset._fingerprint, names, left_out, rows)

    def _shape(self) -> ImageShape:
        return ImageShape(self.image_size, self.window, self._interpolation)

    def _require_memory(self, images: int, bytes_per_value: int) -> None:
        """Refuses a size of which so many images do not fit into the memory."""
        needed = images * 3 * self.image_size**2 * bytes_per_value
        require_memory(needed, f"data.image_size is {self.image_size}: {images:,} images", "give a smaller one")

    def _open_pictures(self, split: str) -> tuple[datasets.Dataset, ColumnPictures]:
        """Opens a split and its column of images."""
        dataset = self.open_split(split, image_column=self.image_column)
        folders, trusted = folders_of_names(Path(hub.locate(self.path)), split, self.image_folder)
        return dataset, ColumnPictures(dataset, self.image_column, f"split {split!r}", folders, trusted)

    def tensors_of(self, split: Split[Tensor]) -> tuple[Tensor, ...]:
        """Gives images and labels."""
        return split.inputs, split.labels

    def count_shared(self, role: Role, split: str) -> None:
        """Counts equal images, and where asked for those that look the same."""
        super().count_shared(role, split)
        fact = f"{role}_near_duplicates_in_training_split"
        if self.near_duplicate_bits is not None and fact not in self._shared_examples:
            images, of_training = (self._split(name).inputs for name in (split, self.train_split))
            found = find_near_duplicates(images, of_training, self.near_duplicate_bits)
            self._shared_examples[fact] = len(found.rows)
            pairs = [f"row {row} as row {other}" for row, other in zip(found.rows[:3], found.others[:3], strict=True)]
            rank_zero_warn(
                f"{len(found.rows)} of {len(images)} images of data.{role}_split {split} look like one of"
                f" {self.train_split}{': ' * bool(pairs)}{', '.join(pairs)}{', ...' * (len(found.rows) > 3)}"
            )

    def batch_maker(self, split: Split[Tensor], is_training: bool = False) -> Callable[[np.ndarray], ImageBatch]:
        """Gives what takes the images of rows, as bytes, on the accelerator where they are kept there.

        Training images are to be augmented and mixed once they are on the device.
        """
        images, labels = self.resident(split)
        kind = TrainingImageBatch if is_training else ImageBatch

        def take(rows: np.ndarray) -> ImageBatch:
            indices = torch.from_numpy(rows).to(images.device, non_blocking=True)
            # On a CPU 3.6 times as fast as images[indices], in batches of 128.
            return kind(images.index_select(0, indices), labels.index_select(0, indices), indices)

        return take

    def training_sample(self, count: int) -> Tensor:
        """Takes training images from all over the training set, normalised as in evaluation, after ``setup``.

        Args:
            count: How many, or all where there are fewer.

        Returns:
            float32 [count, 3, image_size, image_size].
        """
        refuse_sample(self.private)
        rows = self._train_rows[evenly_spaced(len(self._train_rows), count)]
        return self._normalise(self._split(self.train_split).inputs[torch.from_numpy(rows)])

    def predict_dataloader(self) -> BatchLoader:
        """Batches of the images of ``predict_path`` in their order, else of the test split."""
        if self.predict_path is None:
            return self.test_dataloader()
        pictures = pictures_to_predict(self.predict_path, self.image_column, self.image_folder, self.reader)
        split = self._split_of(pictures, self.on_error)
        warn_of_left_out(self.predict_path, split.left_out, len(split))
        return self.eval_loader(split, np.arange(len(split)))

    def split_of(self, examples: Sequence[object]) -> Split[Tensor]:
        """Decodes paths, contents of files, images of Pillow and arrays, which a program gives to predict."""
        return self._split_of(GivenPictures(examples, self.window), "raise")

    def _split_of(self, pictures: Pictures, on_error: OnError) -> Split[Tensor]:
        self._require_memory(len(pictures), 1)  # bytes
        images, rows, left_out = decode_all(pictures, self._shape(), on_error)
        return Split(images, torch.full((len(images),), -1), "", [pictures.names[row] for row in rows], left_out)

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch | TwoViewBatch:
        """Augments and mixes training images and normalises all, on the device: only bytes were transferred."""
        changed = self._augment(batch)
        # Lightning converts a batch to the precision of the weights before this, when images are bytes yet.
        return changed if self.trainer is None else self.trainer.precision_plugin.convert_input(changed)

    def _augment(self, batch: ImageBatch) -> ImageBatch | TwoViewBatch:
        images, labels, indices = batch
        # A private batch may have no example.
        is_to_draw = self.is_augmented and isinstance(batch, TrainingImageBatch) and len(images)
        draws = self._draws() if is_to_draw else None
        if draws and self.views is not None:
            views = self.views(images, indices, seed=draws["seed"], epoch=draws["epoch"])
            return TwoViewBatch(self._normalise(views), indices)
        if draws and self.augmentation is not None:
            images = self.augmentation(images, indices, **draws)
        images = self._normalise(images)
        if draws and self.mixing is not None:
            images, labels = self.mixing(images, labels, indices, num_classes=self.num_classes, **draws)
        return ImageBatch(images, labels, indices)

    def _draws(self) -> dict[str, Any]:
        """What decides the draws of a step."""
        total = len(self._split(self.train_split))
        return {
            # They follow from the number of a row. By a known seed, one example more would change those of others.
            "seed": self.run_seed if self.sampling_seed is None else self.sampling_seed,
            "epoch": self.trainer.current_epoch if self.trainer is not None else 0,
            # The draws of an epoch are made for all rows at once, unless it sees but few of them.
            "total": total if total < 10 * len(self._train_rows) else None,
        }

    def to_pixels(self, images: Tensor) -> Tensor:
        """Undoes the normalisation, for people: float [batch, 3, height, width], from 0 to 255."""
        scale, shift = self._scale_and_shift(images.device)
        return (images - shift) / scale

    def _normalise(self, images: Tensor) -> Tensor:
        scale, shift = self._scale_and_shift(images.device)
        return images.float().mul_(scale).add_(shift)
