"""Convolutional networks for small images."""

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer.errors import UserError

_SIDE = 32  # pixels


class SeedCNN(nn.Module):
    """The classic network of two convolutions and three fully connected layers, for 32 x 32 images.

    Source: LeNet-5 (LeCun et al., 1998), as in the PyTorch tutorial "Training a classifier": with ReLU and max pooling.

    Args:
        num_classes: Number of outputs.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(3, 6, 5)
        self.convolution2 = nn.Conv2d(6, 16, 5)
        self.hidden1 = nn.Linear(16 * 5 * 5, 120)
        self.hidden2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, num_classes)

    @property
    def layer_groups(self) -> dict[str, list[str]]:
        """The layers to freeze and unfreeze together, from input to head: group name -> paths of modules."""
        return {name: [name] for name, _ in self.named_children()}

    def forward(self, images: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            images: float [batch, 3, 32, 32].

        Returns:
            float [batch, num_classes].

        Raises:
            UserError: For images of another size.
        """
        height, width = images.shape[-2:]
        if (height, width) != (_SIDE, _SIDE):
            raise UserError(
                f"SeedCNN takes images of {_SIDE} x {_SIDE} pixels, not {height} x {width}: set data.image_size {_SIDE}"
            )
        # The pooling comes before ReLU: the result is the same, and ReLU reads a quarter of the numbers.
        features = F.relu(F.max_pool2d(self.convolution1(images), 2))
        features = F.relu(F.max_pool2d(self.convolution2(features), 2))
        features = F.relu(self.hidden1(features.flatten(1)))
        logits: Tensor = self.head(F.relu(self.hidden2(features)))
        return logits
