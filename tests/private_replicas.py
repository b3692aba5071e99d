"""Trains privately on two processes with gloo; :mod:`test_private_resume` starts it and reads what it leaves."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from private_toys import SmallImages, fit, private, weights

from lightning_transfer import ProgressiveUnfreezing


class Rows(L.Callback):
    """Notes the rows of each batch, and the difference between the gradient and the mean without noise."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.noise: list[torch.Tensor] = []
        self.errors: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(batch.indices.tolist())

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        data = trainer.datamodule
        shares: list[Any] = [None, None]
        torch.distributed.all_gather_object(shares, self.rows[-1])
        rows = torch.tensor([*shares[0], *shares[1]], dtype=torch.int64)
        split = data._split("train")
        images, labels = data._normalise(split.inputs[rows]), split.labels[rows]
        whole = pl_module._gradients.clipped_sum((images, labels), 1.0, 64)
        self.whole = torch.cat([total.flatten() for total in whole.values()])
        ours = {name: total.clone() for name, total in pl_module._sums.items()}
        for total in ours.values():
            torch.distributed.all_reduce(total)
        self.errors.append(float((torch.cat([t.flatten() for t in ours.values()]) - self.whole).abs().max()))

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        found = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.noise.append(torch.cat(found) * 8 - self.whole)


if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    rows = Rows()
    unfreezing = ProgressiveUnfreezing(until={"steps": 4})
    strategy = DDPStrategy(process_group_backend="gloo")
    module = fit(folder, private(), strategy=strategy, devices=2, callbacks=[unfreezing, rows], data=SmallImages())
    found = {
        "weights": weights(module),
        "privacy": module.privacy,
        "rows": rows.rows,
        "error": max(rows.errors),
        "deviation": float(torch.cat(rows.noise).std()),
    }
    # Cached features, with batches of which most processes have no example.
    probe = [ProgressiveUnfreezing(schedule="linear_probe")]
    strategy = DDPStrategy(process_group_backend="gloo")
    data = SmallImages(batch_size=1)
    module = fit(folder, private(cache_features=True), strategy=strategy, devices=2, callbacks=probe, data=data)
    found["probe"] = weights(module)
    torch.save(found, folder / f"rank{rank}.pt")
