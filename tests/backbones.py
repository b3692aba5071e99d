"""What the tests of pretrained networks share: short fits by hand, and what they have trained."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_transfer import Classifier, ProgressiveUnfreezing
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.networks.layer_groups import resolve_layer_groups
from lightning_transfer.transfer.plan_table import plan

QUIET: dict[str, Any] = {
    **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"},
    **{"num_sanity_val_steps": 0},
}


def parameters_of_groups(network: nn.Module) -> dict[str, list[str]]:
    groups = resolve_layer_groups(network, network.layer_groups)  # type: ignore[arg-type]
    return {group.name: list(group.parameters) for group in groups.values()}


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, 3, optimizer=lambda params: torch.optim.AdamW(params, lr=0.01))


def fit_phases(network: nn.Module, batch: Any) -> list[dict[str, list[str]]]:
    """Fits two phases of one step each, and says which groups each trained; the plan must have said how much.

    Every tensor of a trained group must have a gradient, and none of another group may change.
    """
    groups = parameters_of_groups(network)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    trained: list[set[str]] = []

    class Recorder(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            trained.append({name for name, parameter in network.named_parameters() if parameter.grad is not None})

    loader = loader_of([batch])

    def trainer() -> L.Trainer:
        callbacks = [ProgressiveUnfreezing(until={"epochs": 1}), Recorder()]
        return L.Trainer(max_epochs=2, enable_checkpointing=False, callbacks=callbacks, **QUIET)

    model = classifier(network)
    trainer().fit(model, loader)
    found = []
    for names in trained:
        found.append({group: listed for group, listed in groups.items() if names & set(listed)})
        assert names == {name for listed in found[-1].values() for name in listed}
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed <= trained[-1]
    model.train_dataloader = lambda: loader  # type: ignore[method-assign]
    table = plan(trainer(), model)
    for groups_of_phase in found:
        count = sum(network.get_parameter(name).numel() for listed in groups_of_phase.values() for name in listed)
        assert f"{count:,}" in table, table
    return found


def trained_by_resumption(
    build: Callable[[], nn.Module], batches: Sequence[Any], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fits two epochs, in which a group is thawed in mid-epoch, and again from a checkpoint after the fourth batch.

    Returns:
        The weights of the resumed fit and of the whole one.
    """
    ends: list[dict[str, Tensor]] = []
    for ckpt_path in (None, folder / "step=4.ckpt"):
        keep = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", every_n_train_steps=4)
        unfreezing = ProgressiveUnfreezing(until={"steps": 2})
        trainer = L.Trainer(max_epochs=2, callbacks=[unfreezing, *([] if ckpt_path else [keep])], **QUIET)
        model = classifier(build())
        trainer.fit(model, loader_of(batches), ckpt_path=ckpt_path)
        assert trainer.global_step == 2 * len(batches)
        ends.insert(0, model.state_dict())
    return ends[0], ends[1]


def loader_of(batches: Sequence[Any]) -> BatchLoader:
    """Gives these batches in each epoch, and goes on in mid-epoch from a checkpoint."""
    return BatchLoader(lambda rows: batches[int(rows[0])], lambda epoch: list(np.arange(len(batches)).reshape(-1, 1)))
