"""The network: any torch.nn.Module will do. Put your own in its place."""

from torch import Tensor, nn


class Network(nn.Module):
    """Classifies pictures. ``layer_groups`` names what is frozen and unfrozen together, from input to head."""

    layer_groups = ("stem", "body", "head")

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Computes logits, float [batch, classes]."""
        logits: Tensor = self.head(self.body(self.stem(pictures)).flatten(1))
        return logits
