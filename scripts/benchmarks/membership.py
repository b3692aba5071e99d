"""Attacks trained networks: can a stranger tell by the loss whether an example was among the training examples?

Source: the threshold attack of Yeom et al., Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting,
2018. It calls an example a training example where its loss is below the mean training loss. Its advantage is the share
of the training examples that it finds, minus the share of others that it takes for such: 0 for a guess, 1 at best.
"""

import tempfile
from functools import partial

import lightning as L
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measure import Part, Row, Settings, silence
from lightning_transfer import Classifier, DemoImages, PrivateClassifier, SeedCNN

_RESAMPLES = 2000


def loss_threshold(settings: Settings) -> list[Row]:
    """Trains on few images until they are known by heart, with and without privacy, and attacks both."""
    rows: list[Row] = []
    for name, epsilon in {"not private": None, "epsilon 8": 8.0, "epsilon 3": 3.0}.items():
        members, others, accuracy = losses_of_run(epsilon, settings.scaled(60, 2))
        low, high = interval(members, others)
        found = {"advantage": advantage(members, others), "95 % from": low, "to": high}
        rows.append({"run": name, **found, "test accuracy, %": 100 * accuracy, "n": f"{len(members)} + {len(others)}"})
    return rows


def losses_of_run(target_epsilon: float | None, epochs: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Trains, and gives the loss of each training example and each test example, and the test accuracy."""
    L.seed_everything(0, verbose=False)
    data = DemoImages(task="target", validation_fraction=0, batch_size=64, private=target_epsilon is not None)
    optimizer = partial(torch.optim.AdamW, lr=0.003)
    model = (
        Classifier(SeedCNN(6), 6, optimizer=optimizer)
        if target_epsilon is None
        else PrivateClassifier(SeedCNN(6), 6, target_epsilon, delta=1e-3, optimizer=optimizer)
    )
    with tempfile.TemporaryDirectory() as folder, silence():
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, default_root_dir=folder
        )
        trainer.fit(model, data)
    trained, rows = data.training_part
    tested = data._split("test")
    members, _ = losses(model, data, trained.inputs[torch.from_numpy(rows)], trained.labels[torch.from_numpy(rows)])
    others, accuracy = losses(model, data, tested.inputs, tested.labels)
    return members, others, accuracy


@torch.no_grad()
def losses(model: Classifier, data: DemoImages, images: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, float]:
    """Computes the loss of each image, and the share of right predictions."""
    logits = model.eval()(data._normalise(images))
    return F.cross_entropy(logits, labels, reduction="none").numpy(), float((logits.argmax(1) == labels).float().mean())


def advantage(members: np.ndarray, others: np.ndarray) -> float:
    """Computes the advantage of the attack, from -1 to 1."""
    threshold = members.mean()
    return float((members <= threshold).mean() - (others <= threshold).mean())


def interval(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Computes the 95 % interval of the advantage by a bootstrap over the examples."""
    generator = np.random.default_rng(0)
    drawn = [
        advantage(generator.choice(members, len(members)), generator.choice(others, len(others)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


PARTS: dict[str, Part] = {"loss": loss_threshold}
