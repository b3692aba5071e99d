"""Private training that stops and goes on, that thaws layer groups, and that runs on two processes."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from launching import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from private_toys import EXAMPLES, SmallImages, SmallNetwork, by_opacus, fit, private, trainer, weights
from torch import Tensor, nn

from lightning_transfer import Classifier, ProgressiveUnfreezing, UserError
from lightning_transfer.privacy.secret import FILE, noise_generator

pytest.importorskip("opacus")


def test_run_that_stops_at_ten_random_steps_ends_as_the_whole_one_with_its_epsilon(tmp_path: Path) -> None:
    every_step = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(tmp_path, callbacks=[every_step], enable_checkpointing=True)
    expected = by_opacus(16, 1.0, 8 / EXAMPLES, 1e-5)
    for step in sorted(random.Random(0).sample(range(1, 16), 10)):
        resumed = fit(tmp_path, checkpoint=tmp_path / f"step={step}.ckpt")
        assert resumed.privacy == whole.privacy
        assert resumed.privacy["epsilon"] == pytest.approx(expected, abs=1e-9)
        assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items()), step


class LayerDrop(SmallNetwork):
    """Draws which examples pass its norm layer, by a condition that ``torch.func`` cannot compute for many at once."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.dropout(self.stem(images))
        if not (self.training and torch.rand(()) < 0.3):
            features = self.norm(features)
        return self.head(features.relu().flatten(1))


def test_network_that_takes_one_example_after_the_other_draws_alike_after_a_resume(tmp_path: Path) -> None:
    every_epoch = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = fit(tmp_path, private(LayerDrop()), callbacks=[every_epoch], enable_checkpointing=True)
    resumed = fit(tmp_path, private(LayerDrop()), tmp_path / "epoch=0.ckpt")
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def stopped(folder: Path, **more: Any) -> Path:
    """A run of one epoch that another can go on from."""
    runner = trainer(folder, max_epochs=1)
    runner.fit(private(**more), SmallImages())
    runner.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_longer_training_keeps_the_noise_and_ends_at_the_target(tmp_path: Path) -> None:
    checkpoint = stopped(tmp_path, noise_multiplier=1.5)
    module = fit(tmp_path, private(noise_multiplier=None, target_epsilon=2.2), checkpoint, max_epochs=30)
    assert module.privacy["noise_multiplier"] == 1.5
    assert 8 < module.privacy["steps"] < 240
    assert module.privacy["epsilon"] <= 2.2


def test_target_below_what_the_checkpoint_has_cost_is_refused(tmp_path: Path) -> None:
    checkpoint = stopped(tmp_path)
    with pytest.raises(UserError, match=r"model\.target_epsilon is 1\.0: expected 3\.\d+ or more, which the 8 steps"):
        fit(tmp_path, private(target_epsilon=1.0), checkpoint)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"clip_norm": 2.0}, r"model.clip_norm is 2.0, and the checkpoint's 1.0"),
        ({"delta": 1e-6}, r"model.delta is 1e-06, and the checkpoint's 1e-05"),
        ({"examples_at_once": 2}, r"model.examples_at_once is 2, and the checkpoint's 32"),
        ({"noise_multiplier": 0.5}, r"model.noise_multiplier is 0.5, and the checkpoint's 1.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_checkpoint_of_other_privacy_is_refused(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    checkpoint = stopped(tmp_path)
    with pytest.raises(UserError, match=words):
        fit(tmp_path, private(**more), checkpoint)


def test_checkpoint_of_a_training_that_was_not_private_is_refused(tmp_path: Path) -> None:
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(Classifier(SmallNetwork(), 3, optimizer=private().optimizer), SmallImages(private=False))
    runner.save_checkpoint(tmp_path / "open.ckpt")
    with pytest.raises(UserError, match=r"the checkpoint is of a training that was not private"):
        fit(tmp_path, checkpoint=tmp_path / "open.ckpt")


def test_run_does_not_go_on_with_other_chances_or_without_its_secret(tmp_path: Path) -> None:
    checkpoint = stopped(tmp_path)
    with pytest.raises(UserError, match=r"chance of 0.25 for each, and the checkpoint's is 0.125"):
        fit(tmp_path, checkpoint=checkpoint, data=SmallImages(batch_size=16))
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match=r"secret_seed is missing, damaged or of another run"):
        fit(tmp_path, checkpoint=checkpoint)


def test_same_step_has_the_same_noise_on_the_same_sums_alone() -> None:
    sums = [torch.ones(3), torch.zeros(2)]
    draws = [
        noise_generator(secret, step, given, 1).standard_normal(4).tolist()
        for secret, step, given in [
            (1, 1, sums),
            (1, 1, sums),
            (1, 2, sums),
            (2, 1, sums),
            (1, 1, [2 * sums[0], sums[1]]),
        ]
    ]
    assert draws[0] == draws[1]
    assert draws[0] not in draws[2:]


class Watch(L.Callback):
    """Notes what has a gradient in each step, and the parameters that the optimizer holds."""

    def __init__(self) -> None:
        self.trained: list[set[str]] = []
        self.held: set[tuple[int, ...]] = set()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.trained.append({name for name, p in pl_module.named_parameters() if p.grad is not None})
        self.held.add((id(optimizer), *(id(p) for group in optimizer.param_groups for p in group["params"])))


def test_thawing_adds_noise_to_what_trains_alone_and_never_changes_the_optimizer(tmp_path: Path) -> None:
    watch = Watch()
    unfreezing = ProgressiveUnfreezing(until={"steps": 4})
    module = private()
    before = weights(module)
    fit(tmp_path, module, callbacks=[unfreezing, watch])
    head, norm, stem = ({f"network.{name}.weight", f"network.{name}.bias"} for name in ("head", "norm", "stem"))
    assert watch.trained == [head] * 4 + [head | norm] * 4 + [head | norm | stem] * 8
    assert len(watch.held) == 1
    assert not torch.equal(before["network.stem.weight"], module.network.stem.weight)
    assert module.privacy["epsilon"] == pytest.approx(by_opacus(16, 1.0, 8 / EXAMPLES, 1e-5), abs=1e-9)


def test_frozen_layers_stay_as_they_are_to_the_last_bit(tmp_path: Path) -> None:
    module = private(optimizer=partial(torch.optim.AdamW, lr=0.1))
    before = weights(module)
    fit(tmp_path, module, callbacks=[ProgressiveUnfreezing(schedule="linear_probe")])
    changed = {name for name, value in weights(module).items() if not torch.equal(before[name], value)}
    assert changed == {"network.head.weight", "network.head.bias"}


@pytest.mark.slow
def test_two_processes_share_each_batch_and_stay_equal(tmp_path: Path) -> None:
    first, second = run_ranks("private_replicas.py", tmp_path)
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert all(torch.equal(value, second["probe"][name]) for name, value in first["probe"].items())
    assert first["privacy"] == second["privacy"]
    assert first["privacy"]["epsilon"] == pytest.approx(by_opacus(16, 1.0, 8 / EXAMPLES, 1e-5), abs=1e-9)
    rows = list(zip(first["rows"], second["rows"], strict=True))
    assert len(rows) == 16
    assert all(abs(len(ours) - len(theirs)) <= 1 and not {*ours} & {*theirs} for ours, theirs in rows)
    # What both have clipped and added up is what one process does, and is given noise once.
    assert first["error"] < 1e-5
    torch.testing.assert_close(torch.tensor(first["deviation"]), torch.tensor(1.0), rtol=0.1, atol=0.0)
