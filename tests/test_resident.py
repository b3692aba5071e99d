"""Data that stays on the accelerator: moved once, and batches are taken there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_transfer import DemoImages, DemoTexts


@pytest.mark.parametrize("data_class", [DemoImages, DemoTexts])
@pytest.mark.parametrize("resident_gib", [0.0, 1.0])
def test_split_moves_to_the_accelerator_once_if_it_fits(data_class: type, resident_gib: float) -> None:
    data = data_class(resident_gib=resident_gib)
    split = data.read_split("train")
    # The device of no memory: where tensors are is what is asked.
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    expected = "meta" if resident_gib else "cpu"
    first, second = (data.resident(split) for _ in range(2))
    assert {tensor.device.type for tensor in first} == {expected}
    if resident_gib:
        assert all(one is other for one, other in zip(first, second, strict=True))
    batch = data.batch_maker(split)(np.arange(3))
    assert {tensor.device.type for tensor in batch} == {expected}
    assert {tensor.device.type for tensor in data.tensors_of(split)} == {"cpu"}  # the split itself stays in memory


def test_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.resident_gib is -1: expected 0 or more"):
        DemoTexts(resident_gib=-1)
