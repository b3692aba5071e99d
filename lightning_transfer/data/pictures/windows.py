"""Maps the values of pictures with more than 8 bits to bytes: by one window for a whole data set.

Of 65,536 values, a scanner or a camera may use two hundred. Divided by 256, all of them would be one shade.
"""

from collections.abc import Iterable

import numpy as np

Window = tuple[float, float]

FULL: Window = (0.0, 65535.0)  # of whole numbers, where no training picture says otherwise
_PIXELS = 10_000  # looked at in each picture
_PERCENTILES = (0.1, 99.9)


def measure_window(pictures: Iterable[np.ndarray]) -> Window | None:
    """Chooses the values that become black and white, from a sample of training pictures.

    Numbers from 0 to 1 keep that range, and so do whole numbers from 0 to 255. Otherwise the window reaches from the
    0.1th to the 99.9th percentile of all pixels; from the lowest to the highest value if these are equal.

    Args:
        pictures: The values of each picture, of any shape. Values that are not finite do not count.

    Returns:
        The lowest value and the highest, or None if there are no pictures.
    """
    seen = [values[np.isfinite(values)] for values in pictures]
    seen = [values for values in seen if values.size]
    if not seen:
        return None
    low, high = float(min(values.min() for values in seen)), float(max(values.max() for values in seen))
    if low >= 0 and high <= 1:
        return (0.0, 1.0)
    if low >= 0 and high <= 255 and all(np.array_equal(values, np.rint(values)) for values in seen):
        return (0.0, 255.0)
    pixels = np.concatenate([values[:: max(1, values.size // _PIXELS)] for values in seen])
    inner_low, inner_high = map(float, np.percentile(pixels.astype(np.float64), _PERCENTILES))
    return (inner_low, inner_high) if inner_low < inner_high else (low, high)


def to_bytes(values: np.ndarray, window: Window) -> np.ndarray:
    """Brings values into bytes: the window's lowest and all below to 0, its highest and all above to 255.

    Args:
        values: Numbers, of any shape. What is not a number becomes 0.
        window: The lowest value and the highest.

    Returns:
        uint8 of the same shape.
    """
    low, high = window
    scaled = (values.astype(np.float64) - low) * (255 / ((high - low) or 1))
    return np.rint(np.nan_to_num(scaled, nan=0.0)).clip(0, 255).astype(np.uint8)
