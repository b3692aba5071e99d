"""Compares progressive unfreezing with its peers, and measures its overhead, step time and memory."""

import statistics
import time
from typing import Any

import lightning as L
import torch
import torchvision
from torch import Tensor, nn

from benchmarks import unfreezing_peers
from benchmarks.measure import RATIO, Clock, Part, Row, Settings
from lightning_transfer import ProgressiveUnfreezing
from lightning_transfer.transfer.freezing import FreezableModule
from lightning_transfer.transfer.plan_table import kept_for_backward
from lightning_transfer.transfer.resolution import resolve_schedule
from lightning_transfer.transfer.schedule import Until

BATCH_SIZE = 32


class LeNet(L.LightningModule):
    """LeNet-5 on 32 x 32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        )
        self.head = nn.Linear(84, 10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Computes the loss."""
        return nn.functional.cross_entropy(self.head(self.features(batch[0])), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Logs the loss that the callback monitors."""
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Makes an ordinary optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def waiting() -> ProgressiveUnfreezing:
    """Returns the callback in its busiest state, in which it waits for a plateau."""
    until = {"plateau": {"monitor": "val_loss"}, "steps": 10**6, "epochs": 10**6}
    phases: list[dict[str, Any]] = [{"groups": ["*"], "until": until}, {"groups": ["head"], "only": True}]
    return ProgressiveUnfreezing(["features", "head"], phases=phases)


def overhead(settings: Settings) -> list[Row]:
    """Measures CPU microseconds that the callback, waiting for a plateau, adds to a LeNet step in batches of 32."""
    steps, warm_up = settings.scaled(300, 4), settings.scaled(20, 1)
    count = BATCH_SIZE * (steps + warm_up)
    data = torch.utils.data.TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(10, (count,)))
    batches = torch.utils.data.DataLoader(data, batch_size=BATCH_SIZE)
    validation = torch.utils.data.DataLoader(torch.utils.data.Subset(data, range(BATCH_SIZE)), batch_size=BATCH_SIZE)

    def microseconds(*callbacks: L.Callback) -> float:
        clock = Clock(warm_up, warm_up + steps)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = L.Trainer(
            **quiet, callbacks=[*callbacks, clock], accelerator="cpu", max_epochs=1, enable_checkpointing=False
        )
        trainer.fit(LeNet(), batches, validation)
        return 1e6 * Clock.seconds / steps

    pairs = [(microseconds(), microseconds(waiting())) for _ in range(3 * settings.repeats)]
    without, ratio = statistics.median(pair[0] for pair in pairs), statistics.median(b / a for a, b in pairs)
    return [
        {"callback": "none", "µs a step": without, RATIO: 1.0},
        {"callback": "waiting", "µs a step": without * ratio, RATIO: ratio},
    ]


def phases(settings: Settings) -> list[Row]:
    """Measures step time and activation memory of each gradual phase, for ResNet-18 on 16 images of 64 x 64."""
    network = torchvision.models.resnet18(num_classes=10)
    images, labels = torch.randn(16, 3, 64, 64), torch.randint(10, (16,))
    groups = {"stem": ["conv1", "bn1"], **{f"layer{n}": [f"layer{n}"] for n in range(1, 5)}, "head": ["fc"]}
    resolved = resolve_schedule(network, groups, "gradual", Until(epochs=1), "constant", None)
    module = FreezableModule(resolved.groups, eval_norm_layers=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(network(images), labels)

    def step() -> float:
        begin = time.process_time()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        return time.process_time() - begin

    found = []
    for index in range(len(resolved.phases)):
        module.set_trainable(resolved.trainable(index))
        module.hold()
        step()
        kept = kept_for_backward(network, loss)
        found.append((", ".join(resolved.trainable(index)), kept, min(step() for _ in range(settings.repeats))))
    _, all_kept, all_seconds = found[-1]
    return [
        {
            "trainable": names,
            "kept for backward, MiB": kept / 2**20,
            "% of all": 100 * kept / all_kept,
            "ms a step": 1e3 * seconds,
            "% of all's": 100 * seconds / all_seconds,
        }
        for names, kept, seconds in found
    ]


PARTS: dict[str, Part] = {"peers": unfreezing_peers.compare_peers, "overhead": overhead, "phases": phases}
