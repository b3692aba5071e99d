"""The data: pictures of noise, bright in one quarter, and which quarter it is. Put your own in its place."""

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


def pictures(count: int, seed: int) -> TensorDataset:
    """Generates pictures, float32 [count, 3, 32, 32], and their classes, int64 [count]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    classes = torch.randint(4, (count,), generator=generator)
    for image, quarter in zip(images, classes.tolist(), strict=True):
        top, left = 16 * (quarter // 2), 16 * (quarter % 2)
        image[:, top : top + 16, left : left + 16] += 0.5
    return TensorDataset(images, classes)


class Data(L.LightningDataModule):
    """Gives batches (pictures, classes). The number of classes reaches the network by its name."""

    num_classes = 4

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffles the examples that are learned from."""
        return DataLoader(pictures(512, seed=0), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Gives the examples that choose the best checkpoint."""
        return DataLoader(pictures(128, seed=1), self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Gives the examples that are read once, at the end."""
        return DataLoader(pictures(128, seed=2), self.batch_size)
