"""What the tests of the strategies share: a module with layer groups, and the callbacks of each config."""

import importlib
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from unfreezing_toys import NORM_GROUPS, ToyModule, trainer

FOLDER = Path(__file__).parents[1] / "configs" / "strategies"
HEAD = {"head.weight", "head.bias"}
STRATEGIES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


class Pretrained(ToyModule):
    """The toy with its own layer groups, a norm layer in the middle, and AdamW, whose state shows what trained."""

    layer_groups = NORM_GROUPS

    def __init__(self, **options: Any) -> None:
        super().__init__(norm=True, optimizer=lambda module: torch.optim.AdamW(module.parameters(), lr=0.01), **options)


def callbacks(strategy: str, **changes: Any) -> list[L.Callback]:
    """Builds the callbacks of a strategy's config, with changes of the last one's arguments."""
    config = yaml.safe_load((FOLDER / f"{strategy}.yaml").read_text())
    given = config.get("trainer", {}).get("callbacks+", [])
    entries = given if isinstance(given, list) else [given]
    changes = {"monitor": "val/loss"} | changes if strategy == "wise_ft" else changes  # no best checkpoint has one
    built = []
    for entry in entries:
        module, _, name = entry["class_path"].rpartition(".")
        changed = changes if name == entries[-1]["class_path"].rpartition(".")[2] else {}
        built.append(getattr(importlib.import_module(module), name)(**entry.get("init_args", {}) | changed))
    return built


def fit(
    name: str, module: L.LightningModule, folder: Path | None = None, *, resume: Path | None = None, **options: Any
) -> L.Trainer:
    """Fits three epochs of six steps under a strategy, with a checkpoint after every fourth step where asked for."""
    saving = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    changes = options.pop("changes", {})
    more = options.pop("more", [])
    run = trainer(*callbacks(name, **changes), *more, *([saving] if folder else []), **options)
    run.fit(module, ckpt_path=resume)
    return run


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
