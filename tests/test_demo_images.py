"""The embedded images: reproducible, balanced, out of a linear model's reach, and worth transferring between."""

import copy
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_transfer.data.demo_images import TASKS, Split, Task, generate
from lightning_transfer.errors import UserError

SPLITS: tuple[Split, ...] = ("train", "test")
Labels = npt.NDArray[np.int64]
Arrays = tuple[npt.NDArray[np.uint8], Labels]
Demo = dict[tuple[Task, Split], Arrays]


@pytest.fixture(scope="module")
def demo() -> Demo:
    return {(task, split): generate(task, split) for task in TASKS for split in SPLITS}


def test_images_and_labels_have_the_promised_shapes_and_dtypes(demo: Demo) -> None:
    for images, labels in demo.values():
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.shape == (len(labels), 3, 32, 32)
        assert images.min() < 16
        assert images.max() > 240


def test_classes_are_balanced_and_in_random_order(demo: Demo) -> None:
    for (task, _), (_, labels) in demo.items():
        counts = np.bincount(labels)
        assert len(counts) == len(TASKS[task])
        assert len(set(counts.tolist())) == 1
        assert set(labels[:100].tolist()) == set(range(len(counts)))


def test_source_is_large_and_target_has_few_training_but_many_test_images(
    demo: Demo,
) -> None:
    counts = {key: len(labels) for key, (_, labels) in demo.items()}
    assert counts == {
        ("source", "train"): 8000,
        ("source", "test"): 2000,
        ("target", "train"): 300,
        ("target", "test"): 1800,
    }


def test_source_and_target_share_no_class() -> None:
    assert not set(TASKS["source"]) & set(TASKS["target"])


def test_every_machine_draws_the_same_bytes() -> None:
    drawn = {task: hashlib.sha256(generate(task, "train", 7, 8)[0].tobytes()).hexdigest()[:16] for task in TASKS}
    assert drawn == {"source": "d2045ee150d66d2a", "target": "8c3864a3d577844f"}


def test_another_seed_draws_other_images() -> None:
    assert not np.array_equal(generate("source", "test", 0, 5)[0], generate("source", "test", 1, 5)[0])


def test_no_image_occurs_twice_within_or_across_splits_and_tasks(demo: Demo) -> None:
    drawn = [image.tobytes() for images, _ in demo.values() for image in images]
    assert len(set(drawn)) == len(drawn)


def _linear_accuracy(
    train: npt.NDArray[np.float64], labels: Labels, test: npt.NDArray[np.float64], truth: Labels
) -> float:
    """Return the test accuracy of ridge regression from features [count, features] to one-hot labels."""
    mean, scale = train.mean(axis=0), train.std()
    features, unseen = (np.c_[(part - mean) / scale, np.ones(len(part))] for part in (train, test))
    gram = features.T @ features + 0.1 * len(features) * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ np.eye(labels.max() + 1)[labels])
    return float(((unseen @ weights).argmax(axis=1) == truth).mean())


@pytest.mark.parametrize("task", TASKS)
def test_linear_model_on_pixels_is_close_to_chance(task: Task, demo: Demo) -> None:
    (train, train_labels), (test, test_labels) = (demo[task, split] for split in SPLITS)
    # Every second row and column: a quarter of the pixels keeps the solve short and the shapes visible.
    flat = [images[:, :, ::2, ::2].reshape(len(images), -1) / 255 for images in (train, test)]
    accuracy = _linear_accuracy(flat[0], train_labels, flat[1], test_labels)
    assert accuracy < 2 / len(TASKS[task])


@pytest.mark.parametrize("task", TASKS)
def test_mean_colour_does_not_tell_the_class(task: Task, demo: Demo) -> None:
    (train, train_labels), (test, test_labels) = (demo[task, split] for split in SPLITS)
    colours = [images.mean(axis=(2, 3)) / 255 for images in (train, test)]
    accuracy = _linear_accuracy(colours[0], train_labels, colours[1], test_labels)
    assert accuracy < 1.5 / len(TASKS[task])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sauce", "train"), "demo task 'sauce' is not one of source, target"),
        (("source", "val"), "demo split 'val' is not one of train, test"),
        (("source", "train", -1), "demo seed is -1: expected 0 or more"),
        (("source", "train", 0, 0), "demo images_per_class is 0: expected 1 or more"),
    ],
)
def test_bad_argument_is_a_user_error_that_names_the_way_out(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        generate(*arguments)
    assert str(error.value) == message


def _network(num_classes: int) -> nn.Sequential:
    convolutions = nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
    linears = nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)
    return nn.Sequential(*convolutions, nn.Flatten(), *linears)


def _accuracy_after_training(
    network: nn.Module, train: Arrays, test: Arrays, epochs: int, batch_size: int, learning_rate: float
) -> float:
    (images, labels), (test_images, test_labels) = (
        (torch.from_numpy(images) / 127.5 - 1, torch.from_numpy(labels)) for images, labels in (train, test)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    total_steps = epochs * -(-len(labels) // batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=total_steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        return (network(test_images).argmax(dim=1) == test_labels).double().mean().item()


@pytest.mark.slow
def test_small_network_learns_the_source_and_transfers_to_the_target(demo: Demo) -> None:
    torch.manual_seed(0)
    pretrained = _network(10)
    source = _accuracy_after_training(pretrained, demo["source", "train"], demo["source", "test"], 8, 64, 3e-3)
    assert 0.85 < source < 0.99
    fine_tuned = copy.deepcopy(pretrained)
    fine_tuned[-1] = nn.Linear(84, 6)
    scratch, transferred = (
        _accuracy_after_training(network, demo["target", "train"], demo["target", "test"], 60, 32, 1e-3)
        for network in (_network(6), fine_tuned)
    )
    assert transferred > scratch + 0.1
