"""Learning without labels: the losses, what validation says, collapse, and that a run ends where all others do."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import UNBOUNDED, run_folder
from interruptions import assert_equal_runs, curves
from launching import assert_trained_as_one, run_ranks
from PIL import Image
from self_supervised_toys import SCENARIOS, Agreement, ColourNetwork, fit, images, module, trainer, write_images
from test_cli import error_line
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer import (
    BarlowTwinsLoss,
    Classifier,
    FastCNN,
    ProgressiveUnfreezing,
    SeedCNN,
    SelfSupervisedModule,
    SimCLRLoss,
    SimSiamLoss,
    TorchvisionNetwork,
    TwoViewBatch,
    UserError,
    load,
    load_starting_weights,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.modules.feature_evaluation import (
    LabelledFeatures,
    LinearProbe,
    effective_rank,
    neighbour_shares,
    spread,
)
from lightning_transfer.modules.view_losses import VIEW_LOSSES

FIRST, SECOND = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
SECOND = FIRST + 0.5 * SECOND


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def experiment(folder: Path, *more: str) -> list[str]:
    """The arguments of a run on them."""
    return [
        *("--data", "CIFAR10", "--data.path", str(folder), "--data.batch_size", "16", "--data.views", "{}"),
        *("--data.validation_fraction", "0.2", "--model", "SelfSupervisedModule", "--model.projector", "[12, 8]"),
        *("--model.network", "self_supervised_toys.ColourNetwork", "--model.optimizer.lr", "0.05"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "4"),
        *("--trainer.enable_progress_bar", "false", *more),
    ]


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_simclr_tells_the_other_view_from_all_other_images() -> None:
    views = [*F.normalize(FIRST, dim=1), *F.normalize(SECOND, dim=1)]
    expected = []
    for place, view in enumerate(views):
        partner = (place + 16) % 32
        others = [math.exp(float(view @ other) / 0.3) for number, other in enumerate(views) if number != place]
        expected.append(-math.log(math.exp(float(view @ views[partner]) / 0.3) / sum(others)))
    assert SimCLRLoss(0.3)(FIRST, SECOND).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_barlow_twins_wants_each_output_to_agree_with_itself_alone() -> None:
    correlations = np.corrcoef(FIRST.T.numpy(), SECOND.T.numpy())[:8, 8:]
    own = np.diagonal(correlations)
    expected = ((own - 1) ** 2).sum() + 0.02 * ((correlations**2).sum() - (own**2).sum())
    assert BarlowTwinsLoss(0.02)(FIRST, SECOND).item() == pytest.approx(expected, rel=1e-3)


def test_simsiam_predicts_projections_that_get_no_gradient() -> None:
    predictions, projections = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    loss = SimSiamLoss()(predictions, projections)
    cosines = [float(one @ other / one.norm() / other.norm()) for one, other in zip(FIRST, SECOND, strict=True)]
    assert loss.item() == pytest.approx(-np.mean(cosines), rel=1e-5)
    loss.backward()
    assert projections.grad is None
    assert predictions.grad is not None


# By lightly 1.6.0, of the views in the test.
LIGHTLY = {0.5: 2.2132811116170914, 0.1: 1.2616343380507022}
LIGHTLY_BARLOW_TWINS, LIGHTLY_COSINE = 0.47578376199763234, -0.9773783877772706


def test_losses_are_those_that_lightly_computed() -> None:
    places = torch.arange(128, dtype=torch.float64).view(16, 8)
    first, second = torch.sin(places), torch.sin(places + 0.3 * torch.cos(3 * places))
    for temperature, expected in LIGHTLY.items():
        assert SimCLRLoss(temperature)(first, second).item() == pytest.approx(expected)
    assert BarlowTwinsLoss(0.02)(first, second).item() == pytest.approx(LIGHTLY_BARLOW_TWINS)
    assert SimSiamLoss()(first, second).item() == pytest.approx(LIGHTLY_COSINE)


def test_losses_and_neighbours_are_those_of_lightly_where_it_is_installed() -> None:
    lightly = pytest.importorskip("lightly.loss")
    knn = pytest.importorskip("lightly.utils.benchmarking.knn")
    for temperature in (0.1, 0.5):
        theirs = lightly.NTXentLoss(temperature)(FIRST, SECOND)
        torch.testing.assert_close(SimCLRLoss(temperature)(FIRST, SECOND), theirs)
    torch.testing.assert_close(BarlowTwinsLoss(0.02)(FIRST, SECOND), lightly.BarlowTwinsLoss(0.02)(FIRST, SECOND))
    torch.testing.assert_close(SimSiamLoss()(FIRST, SECOND), lightly.NegativeCosineSimilarity()(FIRST, SECOND))
    bank, queries = F.normalize(torch.randn(300, 8), dim=1), F.normalize(torch.randn(50, 8), dim=1)
    labels = torch.randint(0, 5, (300,))
    theirs = knn.knn_predict(queries, bank.T, labels, 5, knn_k=20)
    ours = neighbour_shares(queries, LabelledFeatures(bank, labels), 5, neighbours=20)
    assert torch.equal(ours.argsort(1, descending=True)[:, 0], theirs[:, 0])


@pytest.mark.parametrize("name", VIEW_LOSSES)
def test_each_loss_trains_what_comes_before_the_head(folder: Path, name: Any) -> None:
    found = module(loss=name)
    before = found.network.hidden.weight.clone()
    used = trainer(max_epochs=4)
    used.fit(found, datamodule=images(folder))
    assert not torch.equal(before, found.network.hidden.weight)
    assert used.callback_metrics["val/knn_accuracy"] > 0.5  # of three colours
    assert used.callback_metrics["train/spread"] > 0.3
    assert (found.head.predictor is not None) == (name == "simsiam")


def loss_of(views: Tensor, **options: Any) -> float:
    """The loss of the first step on two views of each image."""
    loader: Any = torch.utils.data.DataLoader([TwoViewBatch(views, torch.arange(len(views)))], batch_size=None)  # type: ignore[arg-type]
    used = trainer(max_epochs=1)
    used.fit(module(**options), loader)
    return used.callback_metrics["train/loss"].item()


def test_the_two_views_of_an_image_are_compared_and_each_is_predicted_from_the_other() -> None:
    views = torch.randn(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert loss_of(views[:, :1].repeat(1, 2, 1, 1, 1), loss=Agreement()) == pytest.approx(0, abs=1e-5)
    assert loss_of(views, loss=Agreement()) > 0.01
    assert loss_of(views.flip(1), loss="simsiam") == pytest.approx(loss_of(views, loss="simsiam"), rel=1e-5)


def test_each_loss_has_the_head_of_its_paper_unless_another_is_asked_for() -> None:
    expected = {"simclr": (512, 128), "barlow_twins": (2048,) * 3, "simsiam": (2048,) * 3}
    for name, widths in expected.items():
        head = module(loss=name, projector=None).head
        assert tuple(layer.out_features for layer in head.projector if isinstance(layer, nn.Linear)) == widths
        assert isinstance(head.projector[-1], nn.BatchNorm1d) == (name == "simsiam")
    layers = [type(layer).__name__ for layer in module(projector=[12, 8]).head.projector]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


@pytest.mark.parametrize("make", [SeedCNN, FastCNN, partial(TorchvisionNetwork, name="resnet18")])
def test_features_are_what_the_head_of_a_classifier_is_given(make: Any) -> None:
    torch.manual_seed(0)
    network = make(num_classes=7).eval()
    given: list[Tensor] = []
    head = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
    hook = head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    pictures = torch.randn(3, 3, 32, 32)
    network(pictures)
    hook.remove()
    groups = list(network.layer_groups)
    found = SelfSupervisedModule(network, num_classes=7).eval()
    torch.testing.assert_close(found(pictures), given[0])
    assert list(found.layer_groups) == groups


# ---- what validation says -------------------------------------------------------------------------------------------


def test_neighbours_vote_by_the_exponential_of_their_cosines() -> None:
    bank = LabelledFeatures(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [3.0, 3.0]]), torch.tensor([0, 1, 2, 1]))
    [shares] = neighbour_shares(torch.tensor([[5.0, 0.0]]), bank, 3, neighbours=3, temperature=0.5)
    votes = np.exp(np.array([1.0, 0.0, math.sqrt(0.5)]) / 0.5)  # of class 0, and of both of class 1
    expected = [votes[0] / votes.sum(), (votes[1] + votes[2]) / votes.sum(), 0]
    assert shares.tolist() == pytest.approx(expected, rel=1e-5)
    everyone = neighbour_shares(torch.tensor([[5.0, 0.0]]), bank, 3)  # fewer than 200
    assert everyone.sum().item() == pytest.approx(1)
    assert everyone[0, 2] > 0


def test_a_probe_is_trained_to_its_end_also_within_inference() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 5, generator=generator) + F.one_hot(labels, 5) * 2.0
    features = features * torch.tensor([1, 10, 100, 1, 0.0])  # as widely as that, and one that is always the same
    with torch.inference_mode():
        probe = LinearProbe(LabelledFeatures(features.clone(), labels), 3)
    weight, bias = probe._weight.detach().clone().requires_grad_(), probe._bias.detach().clone().requires_grad_()
    standardised = (features - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-6)
    loss = F.cross_entropy(F.linear(standardised, weight, bias), labels) + 1e-4 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-3
    torch.testing.assert_close(probe.logits(features), F.linear(standardised, weight, bias).detach())
    assert (probe.logits(features).argmax(1) == labels).float().mean() > 0.7


def test_rank_and_spread_say_how_many_directions_embeddings_take() -> None:
    everywhere = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert effective_rank(everywhere).item() == pytest.approx(16, rel=0.01)
    assert effective_rank(everywhere[:, :1] * torch.ones(16)).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(10, 4)).item() == 1
    assert spread(everywhere).item() == pytest.approx(1, rel=0.02)
    assert spread(everywhere + 100).item() < 0.05
    assert spread(torch.ones(8, 4)).item() == 0


def test_validation_is_that_of_all_training_examples_as_they_are(folder: Path) -> None:
    data, found = images(folder), module()
    used = trainer()
    used.fit(found, datamodule=data)
    found.eval()
    split, rows = data.training_part
    assert len(rows) == 96
    bank = LabelledFeatures(found(data._normalise(split.inputs[rows])).detach(), split.labels[rows])
    held_out, others = data.validation_part
    queries, labels = found(data._normalise(held_out.inputs[others])).detach(), held_out.labels[others]
    right = (neighbour_shares(queries, bank, 3).argmax(1) == labels).float().mean()
    assert used.callback_metrics["val/knn_accuracy"] == pytest.approx(right)
    right = (LinearProbe(bank, 3).logits(queries).argmax(1) == labels).float().mean()
    assert used.callback_metrics["val/probe_accuracy"] == pytest.approx(right)
    assert used.callback_metrics["val/effective_rank"] == pytest.approx(effective_rank(bank.features).item(), rel=1e-4)


class Swap(L.Callback):
    """Evaluates other weights than those that are trained, as an average of the weights does."""

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with torch.no_grad():
            pl_module.network.hidden.weight.mul_(-3)  # type: ignore[union-attr, operator]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with torch.no_grad():
            pl_module.network.hidden.weight.div_(-3)  # type: ignore[union-attr, operator]


def test_both_sides_of_a_comparison_are_features_of_the_same_weights(folder: Path) -> None:
    data, found = images(folder), module()
    used = trainer(Swap(), max_epochs=1)
    used.fit(found, datamodule=data)
    with torch.no_grad():
        found.network.hidden.weight.mul_(-3)
    again = trainer()
    again.validate(found, datamodule=data, verbose=False)
    for name in ("knn_accuracy", "probe_accuracy", "effective_rank"):
        assert used.callback_metrics[f"val/{name}"] == pytest.approx(again.callback_metrics[f"val/{name}"].item())


def test_labels_change_no_weight(folder: Path) -> None:
    weights, accuracies = [], []
    for turn in (0, 1):
        data, found = images(folder, validation_fraction=0.0, train_fraction=1.0), module()
        data.prepare_data()
        data.setup("fit")
        data._split("train").labels.add_(turn).remainder_(3)
        used = trainer()
        used.fit(found, datamodule=data)
        weights.append(found.state_dict())
        accuracies += used.test(found, datamodule=data, verbose=False)
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert accuracies[0]["test/knn_accuracy"] > accuracies[1]["test/knn_accuracy"]


# ---- collapse and refusals ------------------------------------------------------------------------------------------


def test_a_collapse_is_said_in_one_line_and_not_trained_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = experiment(folder, "--model.loss", "self_supervised_toys.Agreement", "--model.projector", "[8]")
    line = error_line(capsys, "fit", *given, "--trainer.max_epochs", "100", "--model.optimizer.lr", "1")
    assert "train/spread is 0.0" in line
    assert "expected 0.1 or more. The network has collapsed, all images get nearly the same embedding" in line
    saved = torch.load(run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["epoch"] < 90
    assert not (run_folder() / "results.json").exists()


def test_an_untrained_network_has_an_interval_to_spread_what_it_gives(folder: Path) -> None:
    def fit_steps(count: int) -> L.Trainer:
        found = module(projector=[8])
        torch.nn.init.constant_(found.head.projector[0].bias, 100.0)
        used = trainer(max_epochs=-1, max_steps=count, log_every_n_steps=3)
        used.fit(found, datamodule=images(folder))
        return used

    assert fit_steps(3).callback_metrics["train/spread"] < 0.1
    with pytest.raises(UserError, match=r"train/spread is 0\.\d+ after step 5: expected 0\.1 or more"):
        fit_steps(6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "moco"}, "model.loss is moco: expected simclr, barlow_twins, simsiam or a module"),
        ({"num_classes": 0}, "model.num_classes is 0: expected 1 or more"),
        ({"neighbours": 0}, "model.neighbours is 0: expected 1 or more"),
        ({"projector": []}, r"model.projector is \[\]: expected one number of outputs or more"),
        ({"projector": [8, 0]}, r"model.projector is \[8, 0\]"),
    ],
)
def test_wrong_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(**options)


def test_wrong_options_of_losses_and_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.loss.temperature is 0: expected more than 0"):
        SimCLRLoss(0)
    with pytest.raises(UserError, match=r"model.loss.redundancy_weight is -1: expected 0 or more"):
        BarlowTwinsLoss(-1)
    with pytest.raises(UserError, match=r"the head of TorchvisionNetwork has no linear layer: choose another"):
        SelfSupervisedModule(TorchvisionNetwork(3, "squeezenet1_0"), num_classes=3)


def test_data_without_views_and_with_other_labels_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data.views is null: expected two views of each image"):
        trainer().fit(module(), datamodule=images(folder, views=None))
    several = images(folder)
    several.problem_type = "multilabel"
    with pytest.raises(UserError, match=r"data.problem_type is multilabel: expected classification"):
        trainer().fit(module(), datamodule=several)
    loader = torch.utils.data.DataLoader([(torch.zeros(3, 32, 32), 0)] * 4, batch_size=2)
    with pytest.raises(UserError, match=r"the data gives batches of list: expected two views of each image"):
        trainer().fit(module(), loader)
    with pytest.raises(UserError, match=r"data.balanced_sampling is true: expected false, as the training looks at no"):
        trainer().fit(module(), datamodule=images(folder, balanced_sampling=True))
    with pytest.raises(UserError, match=r"the training split has 1 image: expected 2 or more, as images are compared"):
        trainer().fit(module(), datamodule=images(folder, label_column=None, train_fraction=0.001))


class Wrong(nn.Module):
    """A loss of two views that gives what is asked for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, first: Tensor, second: Tensor) -> Any:
        mean = (first - second).square().mean()
        return {"float": 1.0, "none": None, "pair": (mean, mean), "detached": mean.detach()}[self.kind]


class OneView(nn.Module):
    def forward(self, views: Tensor) -> Tensor:
        return views.mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.MSELoss(reduction="none"), r"MSELoss, which gives a tensor \[16, 8\]: expected the mean of the batch"),
        (Wrong("float"), "Wrong, which gives float: expected the mean of the batch, as a tensor"),
        (Wrong("none"), "Wrong, which gives NoneType: expected the mean"),
        (Wrong("pair"), "Wrong, which gives tuple: expected the mean"),
        (Wrong("detached"), "Wrong, which gives a number without a gradient: expected the mean"),
        (OneView(), r"OneView, which does not take the projections of two views, float \[16, 8\] each: "),
    ],
    ids=["each", "float", "none", "pair", "detached", "one view"],
)
def test_loss_of_ones_own_that_is_none_is_refused_at_once(loss: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=f"model.loss is {message}"):
        module(loss=loss, projector=[12, 8])


class NormAtEnd(ColourNetwork):
    """Normalises what its last linear layer gives."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.norm = nn.BatchNorm1d(num_classes)
        self.layer_groups: Any = {"hidden": ["hidden"], "head": ["head", "norm"]}

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.norm(super().forward(images))
        return found


class DefinedFirst(ColourNetwork):
    """Defines the layer at its end before the other one, and names no layer groups."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        del self.layer_groups, self.hidden
        self.hidden = nn.Linear(12, 16)


@pytest.mark.parametrize("network", [NormAtEnd, DefinedFirst])
def test_network_that_computes_something_after_its_last_layer_is_refused(folder: Path, network: Any) -> None:
    line = f"{network.__name__} computes something after the linear layer that is defined last: expected that layer"
    with pytest.raises(UserError, match=line):
        trainer().fit(SelfSupervisedModule(network(3), num_classes=3), datamodule=images(folder))


def test_part_of_the_training_examples_to_compare_with_has_all_classes(folder: Path) -> None:
    found, used = module(), trainer(limit_train_batches=1)
    used.fit(found, datamodule=images(folder, batch_size=8))
    bank = found._training_features()
    assert len(bank.labels) == 8
    assert set(bank.labels.tolist()) == {0, 1, 2}


def test_what_cannot_be_compared_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size is 1: expected 2 or more, as images are compared"):
        trainer().fit(module(), datamodule=images(folder, batch_size=1))
    several = images(folder)
    several.tasks = {}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="SelfSupervisedModule learns from one set of images"):
        trainer().fit(module(), datamodule=several)
    loader = torch.utils.data.DataLoader([torch.zeros(3, 8, 8)], batch_size=1)
    with pytest.raises(UserError, match="gives no training examples to compare others with"):
        trainer().validate(module(), loader, verbose=False)
    given = experiment(folder, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e30")
    line = error_line(capsys, "fit", *given, "--trainer.max_epochs", "5")
    assert "the training diverged, lower the learning rate" in line


def test_data_of_ones_own_gives_views_as_batches() -> None:
    views = [TwoViewBatch(torch.randn(4, 2, 3, 32, 32), torch.arange(4)) for _ in range(5)]
    found = module(loss=Agreement())
    before = found.network.hidden.weight.clone()
    trainer(max_epochs=1).fit(found, torch.utils.data.DataLoader(views, batch_size=None))  # type: ignore[arg-type]
    assert not torch.equal(before, found.network.hidden.weight)


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_reports_the_last_epoch_and_shows_the_features(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *experiment(folder, *UNBOUNDED, "--test_after_fit", "true")])
    run = run_folder()
    record = json.loads((run / "results.json").read_text())
    names = ("knn_accuracy", "probe_accuracy", "effective_rank")
    assert set(record["validation"]) == {f"val/{name}" for name in names}
    assert set(record["test"]) == {f"test/{name}" for name in names}
    assert record["validation"].items() <= record["validations"][-1].items()
    assert record["selected_by"] is None
    assert record["data"]["train_examples"] == 96
    assert record["train_examples_per_second"] < 96 * 3 / record["train_seconds"] * 1.1  # images, not views
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    for name in ("before", "after"):
        points = (run / "projector" / name / "points.tsv").read_text().splitlines()
        assert len(points) == 24
        assert (run / "projector" / name / "sprite.png").exists()
    saved = ["--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/last.ckpt"]
    main(["test", *saved, "--quiet"])
    assert f"test/knn_accuracy{record['test']['test/knn_accuracy']:>23.4f}" in capsys.readouterr().out
    line = error_line(capsys, "predict", *saved)
    assert line == "SelfSupervisedModule predicts no classes: start a Classifier from its checkpoint first"
    with pytest.raises(UserError, match=r"SelfSupervisedModule predicts no classes"):
        load(run)
    main(["report", str(run)])
    [page] = run.glob("*.html")
    assert "knn_accuracy" in page.read_text()


@pytest.mark.parametrize("place", ["", "all", "train"])
def test_a_folder_of_pictures_without_labels_is_learned_from(tmp_path: Path, place: str) -> None:
    pictures = tmp_path / "pictures" / place
    pictures.mkdir(parents=True)
    for number in range(40):
        Image.new("RGB", (40, 36), (6 * number, 100, 255 - 6 * number)).save(pictures / f"{number}.png")
    given = experiment(tmp_path / "pictures", "--data.label_column", "null", "--data.image_column", "image")
    main(["fit", *given, "--trainer.log_every_n_steps", "1"])
    record = json.loads((run_folder() / "results.json").read_text())
    assert record["validation"].keys() == {"val/effective_rank"}
    assert record["data"]["training_examples_by_class"] == {"unlabelled": 32}


def test_a_classifier_of_images_without_labels_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", "CIFAR10", "--data.path", str(folder), "--data.label_column", "null"]
    line = error_line(capsys, "fit", *given, "--model.network", "SeedCNN")
    assert line == "model.num_classes is 1: expected 2 or more"


def test_a_run_that_was_stopped_in_mid_epoch_ends_as_if_it_was_not(folder: Path) -> None:
    given = experiment(folder, "--dashboards", "null", "--model.loss", "simsiam")
    stop = [
        "--trainer.callbacks",
        json.dumps([{"class_path": "interruptions.Interruption", "init_args": {"steps": [9]}}]),
    ]
    main(["fit", *given, "--experiment", "whole"])
    with pytest.raises(SystemExit):
        main(["fit", *given, *stop, "--experiment", "stopped", "--version", "run"])
    main(["fit", *given, *stop, "--experiment", "stopped", "--version", "run", "--ckpt_path", "last"])
    assert_equal_runs(Path("logs/stopped/run"), run_folder("whole"))
    ours, theirs = (curves(run) for run in (Path("logs/stopped/run"), run_folder("whole")))
    assert [ours[name] for name in ("train/loss", "train/spread")] == [
        theirs[name] for name in ("train/loss", "train/spread")
    ]


def test_a_classifier_starts_from_the_features_and_thaws(folder: Path, tmp_path: Path) -> None:
    learned = module()
    trainer().fit(learned, datamodule=images(folder))
    torch.save({"state_dict": learned.state_dict(), "pytorch-lightning_version": "2"}, tmp_path / "views.ckpt")
    classifier = Classifier(ColourNetwork(3), num_classes=3)
    report = load_starting_weights(classifier, tmp_path / "views.ckpt")
    assert torch.equal(classifier.network.hidden.weight, learned.network.hidden.weight)
    assert list(report.made_anew) == ["network.head.weight", "network.head.bias"]
    assert all(name.startswith("network.head.projector.") for name in report.left_over)
    unfreezing = ProgressiveUnfreezing(schedule="gradual", until={"epochs": 1})  # type: ignore[arg-type]
    start = classifier.network.hidden.weight.clone()

    class Frozen(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            is_frozen.append(torch.equal(start, pl_module.network.hidden.weight))

    is_frozen: list[bool] = []
    trainer(unfreezing, Frozen()).fit(classifier, datamodule=images(folder, views=None))
    assert is_frozen == [True, False]
    torch.save({"state_dict": classifier.state_dict(), "pytorch-lightning_version": "2"}, tmp_path / "classes.ckpt")
    again = module()
    report = load_starting_weights(again, tmp_path / "classes.ckpt")
    assert torch.equal(again.network.hidden.weight, classifier.network.hidden.weight)


def test_a_run_without_labels_can_be_planned_and_thaws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = experiment(folder, "--config", "configs/strategies/gradual.yaml")
    main(["plan", *given])
    printed = capsys.readouterr().out
    assert "head 0.05" in printed
    assert "MiB" in printed


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    found = tmp_path_factory.mktemp("ranks")
    write_images(found)
    return found, run_ranks("self_supervised_toys.py", found)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_train_as_one(ranks: Any, name: str) -> None:
    found, both = ranks
    assert_trained_as_one(both, fit(found / "set", name), name)
