"""Image data sets by their names: CIFAR-10, CIFAR-100, and generated images."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from lightning_transfer.data import demo_images
from lightning_transfer.data.images import ImageDataModule
from lightning_transfer.data.keyword_arguments import ImageOptions
from lightning_transfer.data.splits import Split
from lightning_transfer.keywords import Keywords


class CIFAR10(ImageDataModule):
    """CIFAR-10: 60,000 colour images of 32 x 32 pixels in ten classes. Source: Krizhevsky, 2009."""

    def __init__(
        self,
        path: str = "uoft-cs/cifar10",
        image_column: str = "img",
        image_size: int = 32,
        mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465),
        std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616),
        **kwargs: Keywords[ImageOptions],
    ) -> None:
        super().__init__(path=path, image_column=image_column, image_size=image_size, mean=mean, std=std, **kwargs)


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
        image_size: int = 32,
        mean: tuple[float, float, float] = (0.5071, 0.4866, 0.4409),
        std: tuple[float, float, float] = (0.2673, 0.2564, 0.2762),
        **kwargs: Keywords[ImageOptions],
    ) -> None:
        kwargs["label_column"] = f"{labels}_label"
        super().__init__(path=path, image_column=image_column, image_size=image_size, mean=mean, std=std, **kwargs)


class DemoImages(ImageDataModule):
    """Generated images that need no download: a source task and a smaller, related target task.

    Args:
        task: Which of the two tasks.
    """

    def __init__(
        self,
        task: Literal["source", "target"] = "source",
        image_size: int = demo_images.IMAGE_SIZE,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        **kwargs: Keywords[ImageOptions],
    ) -> None:
        super().__init__(path="embedded", image_size=image_size, mean=mean, std=std, **kwargs)
        self.task = task

    def split_names(self) -> list[str]:
        """Gives the names of the generated splits."""
        return ["train", "test"]

    def read_class_names(self) -> list[str]:
        """The names of the task's classes."""
        return list(demo_images.TASKS[self.task])

    def read_split(self, split: str) -> Split[Tensor]:
        """Generates a split."""
        images, labels = map(torch.from_numpy, demo_images.generate(self.task, cast(Literal["train", "test"], split)))
        if self.image_size != demo_images.IMAGE_SIZE:
            images = nn.functional.interpolate(images, self.image_size, mode="bicubic", antialias=True)
        return Split(images, labels, f"embedded/{self.task}/{split}")
