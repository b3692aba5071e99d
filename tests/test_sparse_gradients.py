"""Embeddings that are trained by the rows a batch has used: LazyAdam, clipping, and what a run makes of them."""

import copy
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_transfer import Classifier, LazyAdam, LSTMClassifier, TextBatch
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.modules import sparse_gradients

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


class Table(nn.Module):
    """An embedding of six rows and a linear layer."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 2)

    def loss(self, rows: list[int]) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.embedding(torch.tensor(rows))), torch.tensor(rows) % 2)


def trained(module: Table, optimizer: torch.optim.Optimizer, steps: list[list[int]]) -> dict[str, Tensor]:
    for rows in steps:
        optimizer.zero_grad()
        module.loss(rows).backward()
        optimizer.step()
    return module.state_dict()


def test_lazy_adam_is_adam_where_every_step_uses_every_row() -> None:
    steps = [[0, 1, 2, 3, 4, 5, 0], [5, 4, 3, 2, 1, 0, 3]] * 5
    found, expected = Table(sparse=True), Table(sparse=False)
    lazy = trained(found, LazyAdam(found.parameters(), lr=0.1, betas=(0.8, 0.9), eps=1e-3), steps)
    whole = trained(expected, torch.optim.Adam(expected.parameters(), lr=0.1, betas=(0.8, 0.9), eps=1e-3), steps)
    torch.testing.assert_close(lazy, whole)


def test_lazy_adam_is_torch_s_sparse_adam_and_leaves_other_rows_as_they_are() -> None:
    steps = [[0, 1], [1, 2, 1], [0, 4]]
    found, expected = Table(sparse=True), Table(sparse=True)
    before = found.embedding.weight.detach().clone()
    trained(found, LazyAdam(found.embedding.parameters(), lr=0.1, eps=1e-16), steps)
    # They differ in whether eps is added before or after the correction of the bias.
    trained(expected, torch.optim.SparseAdam(list(expected.embedding.parameters()), lr=0.1, eps=1e-16), steps)
    torch.testing.assert_close(found.embedding.weight, expected.embedding.weight)
    assert torch.equal(found.embedding.weight[[3, 5]], before[[3, 5]])
    assert not torch.isclose(found.embedding.weight[[0, 1, 2, 4]], before[[0, 1, 2, 4]]).any()


def test_lazy_adam_goes_on_from_its_saved_state_to_the_bit() -> None:
    whole, half = Table(sparse=True), Table(sparse=True)
    steps = [[0, 1], [1, 2], [0, 4], [2, 2]]
    expected = trained(whole, LazyAdam(whole.parameters(), lr=0.1), steps)
    optimizer = LazyAdam(half.parameters(), lr=0.1)
    trained(half, optimizer, steps[:2])
    resumed, again = copy.deepcopy(half), copy.deepcopy(optimizer.state_dict())
    optimizer = LazyAdam(resumed.parameters(), lr=0.1)
    optimizer.load_state_dict(again)
    found = trained(resumed, optimizer, steps[2:])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"lr": float("nan")}, {"eps": -1e-8}, {"betas": (0.9, 1.0)}])
def test_lazy_adam_refuses_values_out_of_range_by_their_name(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^optimizer\.{next(iter(settings))} "):
        LazyAdam(Table(sparse=True).parameters(), **settings)


@pytest.mark.parametrize(("algorithm", "value"), [("norm", 0.1), ("norm", 1e3), ("value", 0.01), (None, 0.1)])
def test_sparse_gradients_are_clipped_as_whole_ones(algorithm: str | None, value: float) -> None:
    gradients = []
    for sparse in (True, False):
        module = Table(sparse)
        module.loss([0, 1, 1, 5]).backward()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        if sparse:
            sparse_gradients.clip(optimizer, value, algorithm)
        elif algorithm == "value":
            nn.utils.clip_grad_value_(module.parameters(), value)
        else:
            nn.utils.clip_grad_norm_(module.parameters(), value)
        gradients.append([parameter.grad.to_dense() for parameter in module.parameters()])
    torch.testing.assert_close(*gradients)


def batches() -> list[TextBatch]:
    torch.manual_seed(0)
    ids = torch.randint(1, 50, (6, 8, 12))
    return [TextBatch(of_one, torch.full((8,), 12), torch.randint(2, (8,)), torch.arange(8)) for of_one in ids]


def weights(sparse: bool, optimizer: Any, **trainer: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    network = LSTMClassifier(50, 2, embedding_size=4, hidden_size=3, bigrams=20, sparse_gradients=sparse)
    network.fit_to_data(torch.cat([batch.token_ids.flatten() for batch in batches()]))
    module = Classifier(network, 2, optimizer=optimizer)
    L.Trainer(max_epochs=2, **QUIET, **trainer).fit(module, torch.utils.data.DataLoader(batches(), batch_size=None))
    return module.state_dict()


@pytest.mark.parametrize("trainer", [{}, {"gradient_clip_val": 0.05}, {"accumulate_grad_batches": 2}])
def test_classifier_with_sparse_gradients_learns_by_plain_gradient_descent_what_it_learns_without(
    trainer: dict[str, Any],
) -> None:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.5)

    torch.testing.assert_close(weights(True, optimizer, **trainer), weights(False, optimizer, **trainer))


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.Adam, torch.optim.AdamW, lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)],
)
def test_optimizer_that_takes_no_sparse_gradients_is_refused_before_the_training(optimizer: Any) -> None:
    with pytest.raises(UserError, match=r"^model\.optimizer is \w+: expected one that takes the sparse gradients"):
        weights(True, optimizer)


def test_run_with_sparse_gradients_has_its_dashboards_and_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        *("fit", "--data", "DemoTexts", "--data.task", "target", "--model.network", "LSTMClassifier"),
        *("--model.network.embedding_size", "8", "--model.network.hidden_size", "4", "--model.network.bigrams", "50"),
        *("--model.network.sparse_gradients", "true", "--model.optimizer", "LazyAdam", "--model.optimizer.lr", "0.01"),
        *("--trainer.accelerator", "cpu", "--trainer.gradient_clip_val", "1", "--dashboards.embeddings", "0"),
        *("--trainer.limit_val_batches", "1"),
    ]
    main([*arguments, "--trainer.max_epochs", "2", "--version", "whole"])
    main([*arguments, "--trainer.max_epochs", "1", "--version", "cut"])
    main([*arguments, "--trainer.max_epochs", "2", "--version", "cut", "--ckpt_path", "last"])
    whole, cut = (
        torch.load(Path("logs/default", version, "checkpoints") / "last.ckpt", weights_only=True)
        for version in ("whole", "cut")
    )
    assert all(torch.equal(cut["state_dict"][name], value) for name, value in whole["state_dict"].items())
    assert json.loads(Path("logs/default/whole/results.json").read_text())["steps"] == 4
