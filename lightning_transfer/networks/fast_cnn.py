"""A convolutional network for small images that learns in a few epochs."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer.errors import UserError

_WHITENING_IMAGES = 2000  # they give two million patches for a covariance of 12 x 12
_SMALLEST_IMAGE = 9  # pixels: the whitening takes one off, and three blocks halve the rest


class FastCNN(nn.Module):
    """Classifies images of about 32 x 32 pixels, after a few epochs, by whitened patches and 3 x 3 convolutions.

    The filters of the first layer are not trained. They whiten the 2 x 2 patches of the training images, and are
    computed from these images once, before the first step. ``Classifier`` does so at the start
    of a fit, unless weights were loaded; elsewhere call ``fit_to_data``. Until then each filter passes one value of
    a patch through: the network works, but learns more slowly.

    Args:
        num_classes: Number of outputs; follows from the data on the command line.
        widths: Channels of the three blocks.
        convolutions: Convolutions in a block. From 3 on, a residual connection bridges all but the first.
        test_views: The views of an image whose logits are averaged outside training: ``one`` (the image), ``mirror``
            (also its mirror image) or ``mirror_translate`` (also both moved by a pixel, up to the left and down to the
            right; the moved views together weigh as much as the two in place).

    Attributes:
        layer_groups: The layers to freeze and unfreeze together, from input to head: group name -> paths.

    Raises:
        UserError: For sizes out of range.

    Source:
        Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024: whitening, Dirac initialisation, norm layers of
        fixed scale, scaled logits, test-time views. Unlike there, the head begins with the same spread of logits at any
        width. The bias of the whitening learns as long as its layer group does.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, int, int] = (64, 256, 256),
        convolutions: int = 2,
        test_views: Literal["one", "mirror", "mirror_translate"] = "one",
    ) -> None:
        super().__init__()
        if num_classes is None or num_classes < 1:
            raise UserError(f"num_classes is {num_classes}: expected at least 1")
        if min(widths) < 1:
            raise UserError(f"network.widths is {list(widths)}: expected three numbers of channels, at least 1 each")
        if convolutions < 2:
            raise UserError(f"network.convolutions is {convolutions}: expected at least 2 in a block")
        self.test_views = test_views
        self.whitening = Whitening()
        self.block1 = Block(self.whitening.out_channels, widths[0], convolutions)
        self.block2 = Block(widths[0], widths[1], convolutions)
        self.block3 = Block(widths[1], widths[2], convolutions)
        self.head = ScaledLinear(widths[2], num_classes)
        self.layer_groups = {"stem": ["whitening"], **{n: [n] for n in ("block1", "block2", "block3", "head")}}

    @property
    def sample_size(self) -> int:
        """Number of training images that ``fit_to_data`` needs; 0 once the filters are computed."""
        return 0 if self.whitening.is_fitted else _WHITENING_IMAGES

    def fit_to_data(self, images: Tensor) -> None:
        """Computes the filters of the first layer.

        Args:
            images: float [examples, 3, height, width], normalised training images.
        """
        self.whitening.fit(images)

    def forward(self, images: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            images: float [batch, 3, height, width].

        Returns:
            float [batch, num_classes].

        Raises:
            UserError: For images below 9 x 9 pixels.
        """
        height, width = images.shape[-2:]
        if min(height, width) < _SMALLEST_IMAGE:
            raise UserError(
                f"FastCNN takes images of at least {_SMALLEST_IMAGE} x {_SMALLEST_IMAGE} pixels,"
                f" not {height} x {width}: set data.image_size"
            )
        if self.training or self.test_views == "one":
            return self._logits(images)
        logits = self._logits_of_mirror_pair(images)
        if self.test_views == "mirror_translate":
            padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
            moved = [padded[..., 2:, 2:], padded[..., :-2, :-2]]
            logits = (logits + torch.stack([self._logits_of_mirror_pair(view) for view in moved]).mean(0)) / 2
        return logits

    def _logits_of_mirror_pair(self, images: Tensor) -> Tensor:
        return (self._logits(images) + self._logits(images.flip(-1))) / 2

    def _logits(self, images: Tensor) -> Tensor:
        features = self.block3(self.block2(self.block1(F.gelu(self.whitening(images)))))
        logits: Tensor = self.head(F.adaptive_max_pool2d(features, 1).flatten(1))
        return logits


class Whitening(nn.Module):
    """Convolves 2 x 2 patches so that its outputs are orthogonal on the training images, with a mean square of 1.

    On normalised images, whose mean is about 0, the outputs are therefore uncorrelated and have unit variance.
    The filters, each once with either sign, are a buffer: every checkpoint has them, and they are never trained.
    """

    out_channels = 24
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", self._both_signs(torch.eye(12)))
        self.bias = nn.Parameter(torch.zeros(self.out_channels))

    @property
    def is_fitted(self) -> bool:
        """Whether the filters differ from those of a fresh layer, which only fit values that are white already."""
        return not torch.equal(self.weight, self._both_signs(torch.eye(12)).to(self.weight))

    @torch.no_grad()
    def fit(self, images: Tensor, smallest_variance: float = 5e-4) -> None:
        """Computes the filters.

        Args:
            images: float [examples, 3, height, width].
            smallest_variance: Added to the variance of each direction, so that noise in faint ones is not amplified.
        """
        patches = F.unfold(images.float(), 2)  # [examples, 12, places]
        variances, directions = torch.linalg.eigh((patches @ patches.mT).mean(0) / patches.shape[2])
        self.weight.copy_(self._both_signs((directions / (variances + smallest_variance).sqrt()).T))

    @staticmethod
    def _both_signs(filters: Tensor) -> Tensor:
        filters = filters.reshape(12, 3, 2, 2)
        return torch.cat([filters, -filters])

    def forward(self, images: Tensor) -> Tensor:
        """Computes float [batch, 24, height - 1, width - 1]."""
        return F.conv2d(images, self.weight, self.bias)


class Block(nn.Module):
    """Runs 3 x 3 convolutions, each followed by a norm layer of fixed scale and GELU, and halves the resolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of every convolution's output.
        convolutions: Number of convolutions. From 3 on, a residual connection bridges all but the first.
    """

    def __init__(self, in_channels: int, out_channels: int, convolutions: int) -> None:
        super().__init__()
        channels = [in_channels, *[out_channels] * (convolutions - 1)]
        self.convolutions = nn.ModuleList(dirac_convolution(width, out_channels) for width in channels)
        self.norms = nn.ModuleList(FixedScaleNorm(out_channels) for _ in channels)

    def forward(self, features: Tensor) -> Tensor:
        """Computes float [batch, out_channels, height // 2, width // 2]."""
        residual: Tensor | None = None
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = convolution(features)
            if residual is None:
                features = F.max_pool2d(features, 2)
            features = norm(features)
            if norm is self.norms[-1] and residual is not None and len(self.norms) > 2:
                features = features + residual
            features = F.gelu(features)
            if residual is None:
                residual = features
        return features


def dirac_convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Makes a 3 x 3 convolution without bias that copies its input channels to its first output channels."""
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:in_channels])
    return layer


class FixedScaleNorm(nn.BatchNorm2d):
    """Batch normalisation that learns a bias but no scale, and whose running statistics adapt quickly."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)


class ScaledLinear(nn.Linear):
    """A linear layer without bias, scaled so that one learning rate suits it and the biases below.

    The spread of its outputs at the start is the same for any number of features.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        nn.init.normal_(self.weight, std=0.25)
        self.scale = 4 / in_features

    def forward(self, features: Tensor) -> Tensor:
        """Computes float [batch, out_features]."""
        return super().forward(features) * self.scale
