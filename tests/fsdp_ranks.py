"""Trains on two ranks with FullyShardedStrategy; :mod:`test_fsdp` starts it and reads what it leaves."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_transfer import Classifier, DemoImages, DemoTexts, LSTMClassifier, Muon, ProgressiveUnfreezing, SeedCNN
from lightning_transfer.cluster.sharding import FullyShardedStrategy
from lightning_transfer.dashboards.settings import Dashboards

STEPS = 14
# With these a hold-out is three batches and a test split an odd number, so two ranks cannot have as many of them.
EVAL_BATCH_SIZE = {"cnn": 291, "muon": 291, "lstm": 141}


def experiment(network: str) -> tuple[Classifier, Any]:
    """Builds a module and its data, the same at each call."""
    L.seed_everything(0)
    data: Any
    if network in ("cnn", "muon"):
        data = DemoImages("source", examples_per_class=12, batch_size=12, eval_batch_size=EVAL_BATCH_SIZE[network])
        model = SeedCNN(10)
    else:
        data = DemoTexts("source", examples_per_class=60, batch_size=12, eval_batch_size=EVAL_BATCH_SIZE[network])
        model = LSTMClassifier(
            vocabulary_size=data.vocabulary_size, num_classes=data.num_classes, hidden_size=16, dropout=0.0
        )

    # No Adam: it makes a step of any size out of a gradient of 1e-12.
    def optimizer(params: Any) -> torch.optim.Optimizer:
        return Muon(params) if network == "muon" else torch.optim.SGD(params, lr=0.05, momentum=0.9)

    return Classifier(model, data.num_classes, optimizer=optimizer), data


def train(network: str, folder: Path, ckpt_path: str | None = None, **options: Any) -> dict[str, torch.Tensor]:
    """Trains for some steps, with a new phase of unfreezing every five, and returns the whole weights."""
    module, data = experiment(network)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        limit_val_batches=0,
        callbacks=[
            ProgressiveUnfreezing(schedule="gradual", until={"steps": 5}),
            ModelCheckpoint(dirpath=folder, filename=f"{network}_{{step}}", every_n_train_steps=7, save_top_k=-1),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return {name: w.full_tensor() if hasattr(w, "full_tensor") else w for name, w in weights.items()}  # type: ignore[operator]


def evaluate(network: str, folder: Path, **options: Any) -> dict[str, float]:
    """Trains with two validations and all dashboards, tests, and returns the metrics of both."""
    module, data = experiment(network)
    # The batch of the hold-out that is cut in two is cut unevenly: its first half is enough, the second is not.
    dashboards = Dashboards(share=None, every_n_steps=1, embeddings=EVAL_BATCH_SIZE[network] // 2 + 1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        callbacks=dashboards.callbacks({}, ""),
        logger=TensorBoardLogger(folder, network, ""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, datamodule=data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    [test] = trainer.test(module, datamodule=data, verbose=False)
    return {**metrics, **test}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results: dict[str, Any] = {}
    for network in ("cnn", "lstm"):
        for name, ckpt_path in (("whole", None), ("resumed", str(folder / f"{network}_step=7.ckpt"))):
            weights = train(network, folder, ckpt_path, devices=2, strategy=FullyShardedStrategy())
            results[f"{network} {name}"] = weights
        results[f"{network} metrics"] = evaluate(network, folder, devices=2, strategy=FullyShardedStrategy())
    results["muon whole"] = train("muon", folder, devices=2, strategy=FullyShardedStrategy())
    if os.environ["LOCAL_RANK"] == "0":
        torch.save(results, folder / "results.pt")
