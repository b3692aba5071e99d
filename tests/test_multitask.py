"""Several tasks learned together: how steps are shared, what each head learns, and that nothing depends on a stop."""

import json
import re
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from conftest import run_folder
from interruptions import assert_stop_changes_nothing
from jsonargparse import Namespace
from launching import assert_trained_as_one, run_ranks
from lightning.pytorch.loggers import TensorBoardLogger
from multitask_toys import HAS_TORCHJD, SCENARIOS, SmallNetwork, fit, module, tasks, trainer, write_tasks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import error_line
from torch import nn

from lightning_transfer import (
    CIFAR10,
    Classifier,
    DemoTexts,
    FastCNN,
    ImageDataModule,
    LearningWithoutForgetting,
    LSTMClassifier,
    MultiTaskDataModule,
    MultiTaskModule,
    ProgressiveUnfreezing,
    SeedCNN,
    SpectralShrinkage,
    TextDataModule,
    UserError,
    load_starting_weights,
)
from lightning_transfer.cli.arguments import choose_monitor
from lightning_transfer.cli.entry import main
from lightning_transfer.cli.experiment_builder import ExperimentBuilder
from lightning_transfer.dashboards.task_affinity import TaskAffinity
from lightning_transfer.data.batches import TaskBatch, examples_in
from lightning_transfer.data.loader import shuffled_batches
from lightning_transfer.data.task_mixing import mixed_steps, shares_of_tasks, steps_of_tasks
from lightning_transfer.modules.task_weighting import by_uncertainty
from lightning_transfer.networks.task_heads import split_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tasks")
    write_tasks(found)
    return found


def as_fit(data: MultiTaskDataModule) -> MultiTaskDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def epoch_of(data: MultiTaskDataModule, epoch: int) -> list[list[TaskBatch]]:
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return list(loader)


def experiment(folder: Path, *more: str, model: dict[str, Any] | None = None, **data: Any) -> list[str]:
    """The arguments of a run on both tasks."""
    part = {"batch_size": 4, "validation_fraction": 0.5}
    own = {
        name: {"class_path": "CIFAR10", "init_args": {"path": str(folder / name), **part}}
        for name in ("large", "small")
    }
    config = {
        "data": {"class_path": "MultiTaskDataModule", "init_args": {"tasks": own, **data}},
        "model": {
            "class_path": "MultiTaskModule",
            "init_args": {"network": {"class_path": "multitask_toys.SmallNetwork"}, **(model or {})},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False, "log_every_n_steps": 5},
        "dashboards": None,
    }
    Path("tasks.yaml").write_text(yaml.safe_dump(config))
    return ["--config", "tasks.yaml", *more]


# ---- which tasks a step has ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixing", "temperature", "share"),
    [("proportional", 2, 10 / 11), ("uniform", 2, 1 / 2), ("temperature", 2, 10**0.5 / (10**0.5 + 1)),
     ("temperature", 5, 10**0.2 / (10**0.2 + 1))],
)  # fmt: skip
def test_each_rule_gives_the_shares_that_it_promises(
    folder: Path, mixing: Any, temperature: float, share: float
) -> None:
    data = as_fit(tasks(folder, mixing=mixing, temperature=temperature, steps_per_epoch=110))
    for epoch in range(3):
        steps = epoch_of(data, epoch)
        assert {len(step) for step in steps} == {1}
        counts = Counter(step[0].task for step in steps)
        assert counts.total() == 110
        assert abs(counts["large"] - 110 * share) < 1
    assert data.facts["steps_of_an_epoch"] == dict(sorted(counts.items()))
    assert data.facts["train_examples"] == 110


def test_an_epoch_has_as_many_steps_as_the_tasks_have_batches_in_an_order_of_its_own(folder: Path) -> None:
    data = as_fit(tasks(folder))
    first, second = ([step[0].task for step in epoch_of(data, epoch)] for epoch in (0, 1))
    assert len(first) == 27  # of 4 examples: 25 of the large task, and 2 of the small one
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_step_has_a_batch_of_every_task_together(folder: Path) -> None:
    steps = epoch_of(as_fit(tasks(folder, mixing="together")), 0)
    assert [[one.task for one in step] for step in steps] == [["large", "small"]] * 25
    assert [examples_in(step) for step in steps] == [8] * 25


@pytest.mark.parametrize("mixing", ["uniform", "together"])
def test_every_example_of_a_task_comes_before_any_comes_again(folder: Path, mixing: Any) -> None:
    data = as_fit(tasks(folder, mixing=mixing, steps_per_epoch=10))
    seen: dict[str, list[int]] = {"large": [], "small": []}
    for epoch in range(5):
        for step in epoch_of(data, epoch):
            for one in step:
                seen[one.task] += one.batch.indices.tolist()
    assert len(set(seen["large"][:100])) == len(seen["large"][:100]) > 90
    for start in range(0, len(seen["small"]) - 7, 8):  # of 10 examples, two do not fill a batch
        assert len(set(seen["small"][start : start + 8])) == 8
    assert len(set(seen["small"])) == 10


@pytest.mark.parametrize("shares", [[0.999, 0.001], [0.5, 0.5], [0.34, 0.33, 0.33], [0.2] * 5])
@pytest.mark.parametrize("steps", [5, 7, 100])
def test_steps_are_divided_to_the_last_with_one_at_least(shares: list[float], steps: int) -> None:
    counts = steps_of_tasks(np.array(shares), steps)
    assert counts.sum() == steps
    assert counts.min() >= 1
    assert (np.abs(counts - np.array(shares) * steps) < 1 + 1e-9).all()


@pytest.mark.parametrize("together", [True, False])
def test_ranks_have_the_same_tasks_in_each_step_and_equal_shares_of_each_batch(together: bool) -> None:
    def steps(**share: int) -> Any:
        made = [shuffled_batches(np.arange(n) + 1000 * n, batch_size=4, seed=1, **share) for n in (100, 10)]
        counts = np.full(2, 9) if together else steps_of_tasks(shares_of_tasks([100, 10], "temperature", 2), 9)
        return mixed_steps(made, counts, 1, together)(3)

    whole, halves = steps(), [steps(rank=rank, world_size=2) for rank in range(2)]
    for step, first, second in zip(whole, *halves, strict=True):
        for (task, rows), (one, ours), (other, theirs) in zip(step, first, second, strict=True):
            assert task == one == other
            assert len(ours) == len(theirs) == 2
            assert sorted([*ours, *theirs]) == sorted(rows)


@pytest.mark.parametrize("mixing", ["temperature", "together"])
def test_data_goes_on_in_mid_epoch_with_the_steps_that_are_left(folder: Path, mixing: Any) -> None:
    first, second = (as_fit(tasks(folder, mixing=mixing, coarse=True)) for _ in range(2))
    loader = first.train_dataloader()
    loader.set_epoch(2)
    steps = iter(loader)
    for _ in range(7):
        next(steps)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [[(one.task, one.batch.indices.tolist()) for one in step] for step in epoch_of(second, 2)]
    assert rest == [[(one.task, one.batch.indices.tolist()) for one in step] for step in steps]
    assert len(rest) > 10


# ---- tasks that label the same examples -----------------------------------------------------------------------------


def test_tasks_of_the_same_examples_are_learned_in_one_pass(folder: Path) -> None:
    data = as_fit(tasks(folder, coarse=True))
    small = data.tasks["small"]
    for [one] in epoch_of(data, 0):
        if one.task == "large":
            assert one.labels.keys() == {"large"}
            continue
        assert one.labels.keys() == {"small", "coarse"}
        names = [small.class_names[label] for label in one.labels["small"].tolist()]
        coarse = [data.tasks["coarse"].class_names[label] for label in one.labels["coarse"].tolist()]
        assert coarse == ["high" if name == "class0" else "low" for name in names]
    assert data.facts["tasks"]["coarse"]["train_examples"] == data.facts["tasks"]["small"]["train_examples"] == 10
    passes = []
    found = module(data)
    found.network.register_forward_hook(lambda *_: passes.append(1))
    [step] = [step for step in epoch_of(data, 1) if step[0].task == "small"][:1]
    assert found.task_losses([data.on_after_batch_transfer(step, 0)[0]]).keys() == {"small", "coarse"}
    assert len(passes) == 1


def test_labels_of_the_same_examples_are_those_of_the_splits_that_the_other_task_has(folder: Path) -> None:
    # The small data's test split is trained on, and its training split tested.
    turned = {"path": str(folder / "small"), "batch_size": 4, "train_split": "test", "test_split": "train"}
    small = CIFAR10(**turned, validation_fraction=0.5, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    coarse = CIFAR10(str(folder / "small"), label_column="coarse")
    data = MultiTaskDataModule({"small": small, "coarse": coarse}, same_examples={"coarse": "small"})
    data.prepare_data()
    for stage, loader in (("fit", data.train_dataloader), ("test", lambda: data.test_dataloader()[0])):
        data.setup(stage)
        for step in loader():
            one = step[0] if isinstance(step, list) else step
            names = [small.class_names[label] for label in one.labels["small"].tolist()]
            found = [coarse.class_names[label] for label in one.labels["coarse"].tolist()]
            assert found == ["high" if name == "class0" else "low" for name in names]


def test_task_of_the_same_examples_is_predicted_as_it_was_trained(folder: Path) -> None:
    data = tasks(folder, coarse=True, predict_task="coarse", predict_path=None)
    small = data.tasks["small"]
    small.normalise_as, small.mean, small.std = None, (0.0, 0.0, 0.0), (0.1, 0.1, 0.1)
    found = module(as_fit(data))
    trainer(max_epochs=1).fit(found, datamodule=data)
    evaluated, predicted = [], []
    found.network.register_forward_pre_hook(lambda _, inputs: (predicted if predicts else evaluated).append(inputs[0]))
    for predicts in (False, True):
        runner = trainer()
        (runner.predict if predicts else runner.test)(found, datamodule=data)
    assert torch.equal(predicted[0], evaluated[-1])


def test_tasks_of_other_examples_are_refused_as_the_same(folder: Path) -> None:
    data = tasks(folder, same_examples={"small": "large"})
    data.prepare_data()
    with pytest.raises(UserError, match=r"split 'train' of .*small and of .*large do not hold the same examples"):
        data.setup("fit")


# ---- heads and losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SeedCNN, FastCNN, SmallNetwork], ids=lambda make: make.__name__)
def test_heads_side_by_side_compute_what_the_one_head_did(make: Any) -> None:
    network, images = make(7), torch.randn(5, 3, 32, 32)
    expected, groups = network.eval()(images), list(network.layer_groups)
    heads = split_head(network, {"first": 4, "second": 3})
    torch.testing.assert_close(network(images), expected)
    assert list(network.layer_groups) == groups
    assert {len(head.weight) for head in heads.of_task.values()} == {4, 3}
    assert len(list(network.state_dict())) > len(heads.state_dict())


def test_a_network_whose_head_cannot_be_divided_is_refused() -> None:
    class Convolution(nn.Module):
        layer_groups = ("head",)

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 7, 1)

    with pytest.raises(UserError, match=r"the head of Convolution has no linear layer of 7 outputs"):
        split_head(Convolution(), {"first": 4, "second": 3})
    with pytest.raises(UserError, match=r"task 'type' has the name of a part"):
        split_head(SeedCNN(7), {"type": 4, "second": 3})


class Weights(L.Callback):
    """Notes after each step the task that it had, and which heads have moved."""

    def __init__(self) -> None:
        self.moved: list[tuple[set[str], set[str]]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = {name: head.weight.clone() for name, head in pl_module.heads.of_task.items()}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        heads = pl_module.heads.of_task.items()
        moved = {name for name, head in heads if not torch.equal(head.weight, self.before[name])}
        self.moved.append(({task for one in batch for task in one.labels}, moved))


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_a_step_leaves_the_heads_of_other_tasks_as_they_are(folder: Path, weighting: Any) -> None:
    L.seed_everything(1, verbose=False)
    data, weights = tasks(folder, mixing="uniform", coarse=True), Weights()
    trainer(weights).fit(module(data, weighting=weighting), datamodule=data)
    assert all(present == moved for present, moved in weights.moved)
    assert Counter(map(frozenset, (present for present, _ in weights.moved))).keys() == {
        frozenset({"large"}),
        frozenset({"small", "coarse"}),
    }


def test_accumulated_batches_train_the_heads_of_all_their_tasks(folder: Path) -> None:
    data = tasks(folder, mixing="uniform", steps_per_epoch=6)
    found = module(data)
    before = [head.weight.clone() for head in found.heads.of_task.values()]
    trainer(accumulate_grad_batches=6, max_epochs=1).fit(found, datamodule=data)  # one optimizer step
    assert not any(map(torch.equal, before, (head.weight for head in found.heads.of_task.values())))


def test_log_of_accumulated_batches_has_the_means_of_all_since_the_last(folder: Path) -> None:
    data = tasks(folder, mixing="uniform", steps_per_epoch=24)
    found = module(data)
    logged: list[float] = []
    losses: list[float] = []
    log_all, training_step = found._log_all, found.training_step

    def note_log(means: dict[str, torch.Tensor]) -> None:
        logged.extend(float(value) for name, value in means.items() if name == "train/loss")
        log_all(means)

    def note_loss(*arguments: Any) -> Any:
        losses.append(float(loss := training_step(*arguments)))
        return loss

    found._log_all, found.training_step = note_log, note_loss
    trainer(max_epochs=1, accumulate_grad_batches=4, log_every_n_steps=2, limit_val_batches=0).fit(found, data)
    assert logged[:3] == pytest.approx([sum(losses[start : start + 8]) / 8 for start in (0, 8, 16)])


def test_a_weight_of_nothing_keeps_a_task_out_of_the_network(folder: Path) -> None:
    data = tasks(folder, mixing="together")
    found = module(data, loss_weights={"small": 0.0})
    before, seen = found.heads.of_task["small"].weight.clone(), list[int]()
    found.network.register_forward_pre_hook(lambda part, inputs: seen.append(len(inputs[0])) if part.training else None)
    trainer(max_epochs=1).fit(found, datamodule=data)
    assert torch.equal(found.heads.of_task["small"].weight, before)
    assert seen == [data.tasks["large"].batch_size] * sum(1 for _ in data.train_dataloader())
    metrics = found.trainer.callback_metrics
    assert metrics["val/accuracy"] == metrics["val/large/accuracy"] != metrics["val/small/accuracy"]


def test_task_of_weight_0_with_the_same_examples_leaves_its_head_as_it_is(folder: Path) -> None:
    data = tasks(folder, coarse=True)
    found = module(data, loss_weights={"coarse": 0.0})
    found.optimizer = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5)
    found.losses["coarse"].forward = lambda *_: torch.tensor(float("inf"))  # type: ignore[method-assign]
    before = found.heads.of_task["coarse"].weight.clone()
    trainer(max_epochs=1).fit(found, datamodule=data)
    assert torch.equal(found.heads.of_task["coarse"].weight, before)
    assert found.network.hidden.weight.isfinite().all()


@pytest.mark.skipif(not HAS_TORCHJD, reason="torchjd is not installed")
def test_balancing_leaves_a_task_of_weight_0_out(folder: Path) -> None:
    data = tasks(folder, mixing="together")
    trunks = []
    for weighting in ("mgda", "fixed"):
        found = module(data, weighting=weighting, loss_weights={"small": 0.0})
        trainer(max_epochs=1).fit(found, datamodule=data)
        trunks.append(found.network.hidden.weight)
    torch.testing.assert_close(*trunks)


@pytest.mark.parametrize("penalty", [SpectralShrinkage(), LearningWithoutForgetting()])
def test_penalties_that_follow_one_head_are_refused(folder: Path, penalty: L.Callback) -> None:
    data = tasks(folder)
    with pytest.raises(UserError, match=r"follows one head, and MultiTaskModule has 2: expected a single task"):
        trainer(penalty).fit(module(data), datamodule=data)


def test_diverged_training_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = experiment(folder, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e38")
    line = error_line(capsys, "fit", *given, "--trainer.max_epochs", "5")
    assert "the training diverged, lower the learning rate" in line


def test_uncertainty_divides_each_loss_by_a_variance_that_is_learned(folder: Path) -> None:
    network = SmallNetwork(7)
    heads = split_head(network, {"first": 4, "second": 3})
    heads.learn_variances()
    with torch.no_grad():
        heads.log_variances["first"].fill_(0.7)
    losses = {"first": torch.tensor(2.0), "second": torch.tensor(3.0)}
    found = by_uncertainty(losses, heads, {"first": "classification", "second": "regression"})
    assert found["first"].item() == pytest.approx(np.exp(-0.7) * 2 + 0.35)
    assert found["second"].item() == pytest.approx(0.5 * 3)
    found["second"].backward()
    assert heads.log_variances["second"].grad.item() == pytest.approx(-0.5 * 3 + 0.5)
    data = tasks(folder)
    fitted = module(data, weighting="uncertainty")
    trainer(max_epochs=3).fit(fitted, datamodule=data)
    assert all(abs(value.item()) > 0.01 for value in fitted.heads.log_variances.values())
    assert "network.head.log_variances.large" in dict(fitted.named_parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weights": {"medium": 1.0}}, "model.loss_weights has 'medium': expected tasks of large, small"),
        ({"loss_weights": {"small": -1.0}}, "model.loss_weights.small is -1.0: expected a number, 0 or more"),
        ({"loss_weights": {"small": float("inf")}}, "model.loss_weights.small is inf: expected a number, 0 or more"),
        ({"losses": {"medium": "cross_entropy"}}, "model.losses has medium: expected tasks of large, small"),
        ({"losses": {"small": "huber"}}, "model.losses.small is huber: expected cross_entropy"),
        ({"losses": {"small": nn.L1Loss()}}, "model.losses.small is L1Loss, which does not take what is predicted"),
        ({"loss_weights": {"small": 0.0, "large": 0.0}}, "model.loss_weights are all 0: expected one above 0"),
    ],
)
def test_wrong_names_and_weights_of_tasks_are_refused(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(tasks(folder), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, "data.temperature is 0.5: expected 1 or more"),
        ({"steps_per_epoch": 0}, "data.steps_per_epoch is 0: expected 1 or more"),
        ({"predict_task": "medium"}, "data.predict_task is medium: expected one of large, small"),
        ({"vocabulary_path": "a.json"}, "data.vocabulary_path is a.json: expected null, as no task is of texts"),
        ({"predict_path": "new"}, "data.predict_path is new: expected null without data.predict_task"),
        ({"same_examples": {"small": "medium"}}, "data.same_examples has small: medium: expected"),
        ({"same_examples": {"small": "large", "large": "small"}}, "data.same_examples has small: large: expected"),
    ],
)
def test_wrong_options_of_the_data_are_refused(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tasks(folder, **options)


def test_tasks_that_do_not_go_together_are_refused(folder: Path) -> None:
    own = tasks(folder).tasks
    with pytest.raises(UserError, match=r"data.tasks is large: expected two tasks or more"):
        MultiTaskDataModule({"large": own["large"]})
    names: list[Any] = ["a/b", "20news", 1]
    for name in names:
        with pytest.raises(UserError, match=f"data.tasks has {name!r}: expected a name"):
            MultiTaskDataModule({"large": own["large"], name: own["small"]})
    with pytest.raises(UserError, match=r"data.tasks.small.label_column is null: expected the column of the task's"):
        MultiTaskDataModule({"large": own["large"], "small": ImageDataModule("pictures", label_column=None)})
    for name in ("shown", "items", "_in_means"):
        with pytest.raises(UserError, match=f"data.tasks has '{name}': expected another name"):
            MultiTaskDataModule({"large": own["large"], name: own["small"]})
    with pytest.raises(UserError, match=r"task small has 1 classes: expected 2 or more"):
        MultiTaskModule(SmallNetwork(5), {"large": 4, "small": 1})
    for option, value in (("balanced_sampling", True), ("examples_per_class", 1), ("train_fraction", 0.5)):
        again = CIFAR10(str(folder / "large"), **{option: value})
        with pytest.raises(UserError, match=f"data.tasks.again.{option} is {value}: expected it in task large, whose"):
            MultiTaskDataModule({"large": own["large"], "again": again}, same_examples={"again": "large"})
    sizes = {name: CIFAR10(str(folder / name), image_size=size) for name, size in (("large", 16), ("small", 32))}
    with pytest.raises(UserError, match=r"the images of large, small are of 2 sizes: expected the same data"):
        as_fit(MultiTaskDataModule(sizes)).training_sample(4)
    with pytest.raises(UserError, match=r"task both has the data MultiTaskDataModule: expected images or texts"):
        MultiTaskDataModule({"large": own["large"], "both": tasks(folder)})
    with pytest.raises(UserError, match=r"of texts and of images"):
        MultiTaskDataModule({"large": own["large"], "texts": DemoTexts()})
    with pytest.raises(UserError, match=r"max_vocabulary_size of data.tasks is 1000 and 25000: expected the same"):
        _ = MultiTaskDataModule({"films": DemoTexts(), "more": DemoTexts(max_vocabulary_size=1000)}).vocabulary_size
    data = as_fit(tasks(folder, steps_per_epoch=1))
    with pytest.raises(UserError, match=r"data.steps_per_epoch is 1: expected 2 or more"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--data.tasks.small.batch_size", "0"], "data.tasks.small.batch_size is 0: expected 1 or more"),
        (["--data.tasks.small.path", "no/where"], "data set 'no/where' is no folder, "),
        (["--data.tasks.small.image_size", "8"], "SeedCNN takes images of 32 x 32 pixels, not 8 x 8: set"),
        (["--data.tasks.small.views", "{}"], "data.tasks.small.views is on"),
        (["--model.loss_weights", "{small: high}"], "model.loss_weights is high: expected a number"),
        (["--model.loss_weights", "{small:1}"], "model.loss_weights is {small:1}: expected a mapping, write a blank"),
        (
            ["--model.losses", "{small: hugo}"],
            "model.losses: 'hugo' is not a class that can be imported: expected cros",
        ),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_mistake_in_a_task_names_its_option(
    folder: Path, given: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = error_line(capsys, "fit", *experiment(folder, *given, model={"network": {"class_path": "SeedCNN"}}))
    assert found.startswith(line)
    assert not re.search(r"\bdata\.(?!tasks\.small\.)[a-z]", found)


class SoftmaxAtEnd(SmallNetwork):
    """Gives probabilities in place of logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).softmax(1)


def test_network_that_computes_something_after_its_last_layer_is_refused(folder: Path) -> None:
    data = tasks(folder)
    with pytest.raises(UserError, match=r"SoftmaxAtEnd computes something after the linear layer that is defined last"):
        trainer().fit(MultiTaskModule(SoftmaxAtEnd(9), data.outputs), datamodule=data)


def texts(folder: Path) -> MultiTaskDataModule:
    data: dict[str, Any] = {}
    for task, words in (("films", "plot actor"), ("meals", "soup waiter")):
        rows = [{"text": f"the {words.split()[row % 2]} {row}", "label": row % 2} for row in range(20)]
        (folder / task).mkdir(exist_ok=True)
        (folder / task / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        data[task] = TextDataModule(str(folder / task), batch_size=4)
    return MultiTaskDataModule(data)


def test_texts_of_all_tasks_are_read_by_one_vocabulary(tmp_path: Path) -> None:
    data = texts(tmp_path)
    assert {"plot", "actor", "soup", "waiter"} < set(data.vocabulary or ())
    assert len({task.tokenizer.to_str() for task in data._texts}) == 1
    data.setup("fit")
    module = MultiTaskModule(LSTMClassifier(data.vocabulary_size or 0, data.num_classes, hidden_size=4), data.outputs)
    assert module.task_losses(next(iter(data.train_dataloader()))).keys() < {"films", "meals"}
    other = texts(tmp_path)
    other.load_state_dict(data.state_dict())
    assert other.tasks["films"]._tokenizer is not None  # of the checkpoint
    assert other.vocabulary == data.vocabulary
    (tmp_path / "tokenizer.json").write_text(data.tasks["films"].tokenizer.to_str())
    given = MultiTaskDataModule(texts(tmp_path).tasks, vocabulary_path=str(tmp_path / "tokenizer.json"))
    assert given.vocabulary == data.vocabulary


# ---- gradients that disagree ---------------------------------------------------------------------------------------


class Gradients(L.Callback):
    """Notes the gradients that the optimizer gets, and those of each task alone, before the first step."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.of_tasks = torch.stack(list(pl_module.shared_gradients(batch).values()))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        if not hasattr(self, "joint"):
            self.joint = torch.cat([one.grad.flatten() for one in pl_module.shared_parameters()])
            self.heads = [head.weight.grad.clone() for head in pl_module.heads.of_task.values()]


@pytest.mark.parametrize("weighting", ["upgrad", "mgda", "aligned_mtl"])
def test_balanced_gradients_are_what_torchjd_makes_of_those_of_the_tasks(folder: Path, weighting: Any) -> None:
    pytest.importorskip("torchjd")
    from torchjd import aggregation

    notes = []
    for chosen in ("fixed", weighting):
        data, gradients = tasks(folder, mixing="together", coarse=True), Gradients()
        trainer(gradients, max_steps=1).fit(module(data, weighting=chosen), datamodule=data)
        notes.append(gradients)
    torch.testing.assert_close(notes[0].joint, notes[0].of_tasks.sum(0))
    name = {"upgrad": "UPGrad", "mgda": "MGDA", "aligned_mtl": "AlignedMTL"}[weighting]
    torch.testing.assert_close(notes[1].joint, getattr(aggregation, name)()(notes[1].of_tasks))
    if weighting != "aligned_mtl":
        assert (notes[1].of_tasks @ notes[1].joint > -1e-6).all()  # no task is harmed
    for plain, balanced in zip(notes[0].heads, notes[1].heads, strict=True):
        torch.testing.assert_close(plain, balanced)  # each head learns from its own loss


@pytest.mark.parametrize(
    ("data_options", "trainer_options", "message"),
    [
        ({"mixing": "uniform"}, {}, "model.weighting is mgda: expected data.mixing together, .* and not only"),
        ({"mixing": "together"}, {"accumulate_grad_batches": 2}, "accumulate_grad_batches is 2: expected 1"),
    ],
)
def test_balancing_is_refused_where_a_step_does_not_know_all_gradients(
    folder: Path, data_options: Any, trainer_options: Any, message: str
) -> None:
    pytest.importorskip("torchjd")
    data = tasks(folder, **data_options)
    with pytest.raises(UserError, match=message):
        trainer(**trainer_options).fit(module(data, weighting="mgda"), datamodule=data)


def test_affinity_is_the_cosine_between_the_gradients_of_tasks(folder: Path, tmp_path: Path) -> None:
    data, logger = tasks(folder, coarse=True), TensorBoardLogger(tmp_path, "own", "")
    found = module(data)
    modes = [part.training for part in found.modules()]
    trainer(TaskAffinity(), logger=logger).fit(found, datamodule=data)
    assert [part.training for part in found.modules()] == modes
    events = EventAccumulator(str(tmp_path / "own")).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("affinity/")]
    assert sorted(tags) == ["affinity/large_coarse", "affinity/large_small", "affinity/small_coarse"]
    assert all(len(events.Scalars(tag)) == 2 and abs(events.Scalars(tag)[0].value) <= 1 for tag in tags)
    assert "tasks/affinity" in events.Tags()["images"]
    same = tasks(folder, mixing="together")
    same.tasks["small"] = same.tasks["large"]
    [step] = epoch_of(as_fit(same), 0)[:1]
    twin = module(same)
    with torch.no_grad():
        twin.heads.of_task["small"].load_state_dict(twin.heads.of_task["large"].state_dict())
    one, other = twin.shared_gradients([same.on_after_batch_transfer(part, 0) for part in step]).values()
    assert torch.nn.functional.cosine_similarity(one, other, dim=0).item() == pytest.approx(1, abs=1e-5)


# ---- starting weights and unfreezing --------------------------------------------------------------------------------


def test_the_trunk_starts_a_single_task_and_the_reverse(folder: Path, tmp_path: Path) -> None:
    data = tasks(folder)
    several, one = module(data, weighting="uncertainty"), Classifier(SmallNetwork(6), num_classes=6)
    for name, found in (("several", several), ("one", one)):
        torch.save({"state_dict": found.state_dict(), "pytorch-lightning_version": "2"}, tmp_path / f"{name}.ckpt")
    fresh = Classifier(SmallNetwork(6), num_classes=6)
    report = load_starting_weights(fresh, tmp_path / "several.ckpt")
    assert torch.equal(fresh.network.hidden.weight, several.network.hidden.weight)
    assert list(report.made_anew) == ["network.head.weight", "network.head.bias"]
    again = module(data)
    load_starting_weights(again, tmp_path / "one.ckpt")
    assert torch.equal(again.network.hidden.weight, one.network.hidden.weight)
    other = MultiTaskModule(SmallNetwork(9), {"small": 5, "new": 4})
    report = load_starting_weights(other, tmp_path / "several.ckpt")
    assert torch.equal(other.heads.of_task["small"].weight, several.heads.of_task["small"].weight)
    assert set(report.made_anew) == {"network.head.of_task.new.weight", "network.head.of_task.new.bias"}


def test_head_of_a_task_whose_classes_are_in_another_order_is_moved(folder: Path, tmp_path: Path) -> None:
    data = as_fit(tasks(folder))
    source = module(data)
    turned = {**data.task_class_names, "small": data.tasks["small"].class_names[::-1]}
    state = {"tasks": {task: {"class_names": names} for task, names in turned.items()}}
    content = {"state_dict": source.state_dict(), "pytorch-lightning_version": "2", "MultiTaskDataModule": state}
    torch.save(content, tmp_path / "several.ckpt")
    found = MultiTaskModule(SmallNetwork(9), data.outputs)
    report = load_starting_weights(found, tmp_path / "several.ckpt", class_names=data.task_class_names)
    assert report.by_class == [f"network.head.of_task.small.{name}" for name in ("weight", "bias")]
    assert torch.equal(found.heads.of_task["small"].weight, source.heads.of_task["small"].weight.flip(0))
    assert torch.equal(found.heads.of_task["large"].weight, source.heads.of_task["large"].weight)


def test_heads_are_the_last_layer_group_and_the_trunk_thaws(folder: Path) -> None:
    class Phases(L.Callback):
        def __init__(self) -> None:
            self.moved: list[bool] = []

        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            self.before = pl_module.network.hidden.weight.clone()

        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            self.moved.append(not torch.equal(self.before, pl_module.network.hidden.weight))

    data, phases = tasks(folder, mixing="uniform"), Phases()
    found = module(data, weighting="uncertainty")
    unfreezing = ProgressiveUnfreezing(schedule="gradual", until={"epochs": 1})  # type: ignore[arg-type]
    heads = [head.weight.clone() for head in found.heads.of_task.values()]
    trainer(unfreezing, phases).fit(found, datamodule=data)
    assert phases.moved == [False, True]
    assert not any(map(torch.equal, heads, (head.weight for head in found.heads.of_task.values())))


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_images_of_each_task_are_normalised_as_the_starting_weights() -> None:
    name = "ResNet18_Weights.IMAGENET1K_V1"
    parts = {task: Namespace(init_args=Namespace(normalise_as=given)) for task, given in (("a", None), ("b", "own"))}
    for given in (parts, ("source", "target")):  # those of DemoTextStreams are no tasks with data of their own
        data = Namespace(init_args=Namespace(tasks=given))
        data["class_path"] = "lightning_transfer.MultiTaskDataModule"
        parser = SimpleNamespace(config={"init_from": name, "data": data}, _get=lambda of, key: of[key], _saved={})
        ExperimentBuilder._normalise_as_starting_weights(parser)  # type: ignore[arg-type]
    assert [part.init_args.normalise_as for part in parts.values()] == [name, "own"]


def test_images_of_each_task_are_normalised_as_the_checkpoint_says_whose_starting_weights_may_be_gone() -> None:
    part = Namespace(init_args=Namespace(normalise_as="gone", mean=None, std=None, image_size=None))
    data = Namespace(class_path="MultiTaskDataModule", init_args=Namespace(tasks={"a": part}))
    saved = {"MultiTaskDataModule": {"tasks": {"a": {"mean": [0.1] * 3, "std": [0.2] * 3, "image_size": 32}}}}
    parser = SimpleNamespace(config={"init_from": None, "data": data}, _get=lambda of, key: of[key], _saved=saved)
    ExperimentBuilder._normalise_as_starting_weights(parser)  # type: ignore[arg-type]
    assert vars(part.init_args) == {"normalise_as": None, "mean": [0.1] * 3, "std": [0.2] * 3, "image_size": 32}


@pytest.mark.parametrize(
    ("kinds", "monitor"),
    [
        (["regression"] * 2, "val/rmse"),
        (["regression", "classification"], "val/loss"),
        ([None] * 2, "val/accuracy"),
        (["regression", "tokens"], "val/rmse"),
    ],
)
def test_best_checkpoint_is_chosen_by_what_all_tasks_with_labels_have(kinds: list[str | None], monitor: str) -> None:
    def part(kind: str | None) -> Namespace:
        name = "LanguageModelDataModule" if kind == "tokens" else "TextDataModule"
        given = Namespace() if kind == "tokens" else Namespace(problem_type=kind)
        return Namespace(class_path=f"lightning_transfer.{name}", init_args=given)

    tasks = {f"task{place}": part(kind) for place, kind in enumerate(kinds)}
    config = Namespace()
    config["checkpoint.monitor"], config["checkpoint.mode"] = "val/accuracy", "max"
    config["model.class_path"] = "lightning_transfer.MultiTaskModule"
    config["data.init_args.tasks"] = tasks
    choose_monitor(config)
    assert (config["checkpoint.monitor"], config["checkpoint.mode"]) == (
        monitor,
        "max" if monitor == "val/accuracy" else "min",
    )


def test_a_run_logs_tests_and_predicts_each_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = experiment(folder, mixing="uniform")
    main(["fit", *given, "--test_after_fit", "true"])
    run = run_folder()
    record = json.loads((run / "results.json").read_text())
    for split, stage in (("validation", "val"), ("test", "test")):
        for task in ("large", "small"):
            assert {f"{stage}/{task}/{name}" for name in ("loss", "accuracy", "macro_f1")} < record[split].keys()
        mean = (record[split][f"{stage}/large/accuracy"] + record[split][f"{stage}/small/accuracy"]) / 2
        assert record[split][f"{stage}/accuracy"] == pytest.approx(mean)
    assert record["selected_by"] == "val/accuracy"
    assert record["data"]["steps_of_an_epoch"] == {"large": 14, "small": 13}
    assert "large/accuracy" in capsys.readouterr().out
    evaluated = ["--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/best.ckpt"]
    main(["predict", *evaluated, "--data.predict_task", "small"])
    lines = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    assert lines[0]["probabilities"].keys() == {f"class{number}" for number in range(5)}
    line = error_line(capsys, "predict", *evaluated)
    assert "data.predict_task is null: expected one of large, small" in line


def test_a_run_that_was_stopped_in_mid_epoch_ends_as_if_it_was_not(folder: Path) -> None:
    given = experiment(folder, model={"weighting": "uncertainty"}, mixing="temperature")
    assert_stop_changes_nothing(given, 38, run_folder)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    found = tmp_path_factory.mktemp("ranks")
    write_tasks(found)
    return found, run_ranks("multitask_toys.py", found)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_train_as_one(ranks: Any, scenario: str) -> None:
    found, both = ranks
    assert_trained_as_one(both, fit(found, scenario), scenario)
