"""The fast network: its whitening, its beginning, its views in evaluation, and its way through a fit."""

from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import fit_arguments, run_folder
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer import CIFAR10, Classifier, FastCNN, Muon, ProgressiveUnfreezing
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError

WIDTHS = (4, 8, 8)
NARROW = ("--model.network", "FastCNN", "--model.network.widths", str(list(WIDTHS)))


def smooth_images(count: int = 64, size: int = 32) -> Tensor:
    """Random images whose neighbouring pixels and channels go together, as in photographs."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 6, 6, generator=generator) + torch.randn(count, 1, 6, 6, generator=generator)
    noise = 0.1 * torch.randn(count, 3, size, size, generator=generator)
    return F.interpolate(coarse, size, mode="bilinear") + noise


def fitted(**arguments: object) -> FastCNN:
    torch.manual_seed(0)
    network = FastCNN(10, **{"widths": WIDTHS, **arguments})
    network.fit_to_data(smooth_images())
    return network


def trainer(epochs: int, **arguments: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, **quiet, **arguments)


def test_whitened_patches_of_the_training_images_are_uncorrelated_with_unit_variance() -> None:
    outputs = fitted().whitening(smooth_images())[:, :12].transpose(0, 1).flatten(1)
    covariance = outputs @ outputs.T / outputs.shape[1]
    torch.testing.assert_close(covariance - covariance.diag().diag(), torch.zeros(12, 12), atol=1e-3, rtol=0)
    assert (covariance.diag() > 0.9).all()
    assert (covariance.diag() < 1.001).all()


def test_every_whitening_filter_comes_with_its_negative() -> None:
    weight = fitted().whitening.weight
    assert torch.equal(weight[:12], -weight[12:])


def test_whitening_that_is_known_needs_no_images() -> None:
    assert FastCNN(10, WIDTHS).sample_size > 0
    assert fitted().sample_size == 0


def test_fresh_network_learns_before_it_is_fitted_to_data_and_is_fitted_still() -> None:
    torch.manual_seed(0)
    network, images, labels = FastCNN(10, WIDTHS), smooth_images(8), torch.arange(8)
    # Each value of a patch, and its negative.
    torch.testing.assert_close(network.whitening(images)[:, :12], F.unfold(images, 2).reshape(8, 12, 31, 31))
    assert network.eval()(images).isfinite().all()
    optimizer = Muon(network.train().parameters(), lr=0.05, sgd_lr=1.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(network(images), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    # Weights that were never fitted say so, in any precision and after a way through a file.
    torch.save(network.bfloat16().state_dict(), "fresh.pt")
    loaded = FastCNN(10, WIDTHS)
    loaded.load_state_dict(torch.load("fresh.pt", weights_only=True))
    assert loaded.sample_size == network.sample_size == FastCNN(10, WIDTHS).sample_size > 0


def test_convolutions_begin_as_the_identity_on_their_first_channels() -> None:
    first, second = fitted().block2.convolutions  # 4 to 8 channels, 8 to 8
    images = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(first(images)[:, :4], images)
    features = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(second(features), features)
    assert first.weight[4:].std() > 0.01  # the other channels are random


def test_norm_layers_learn_a_bias_and_no_scale() -> None:
    names = [name for name, _ in fitted().named_parameters()]
    assert "block1.norms.0.bias" in names
    assert not [name for name in names if "norm" in name and "weight" in name]


@pytest.mark.parametrize("convolutions", [2, 3])
def test_layer_groups_take_every_parameter_from_input_to_head(convolutions: int) -> None:
    network = FastCNN(10, WIDTHS, convolutions)
    assert list(network.layer_groups) == ["stem", "block1", "block2", "block3", "head"]
    modules = [network.get_submodule(path) for paths in network.layer_groups.values() for path in paths]
    covered = [parameter for module in modules for parameter in module.parameters()]
    assert [id(p) for p in covered] == [id(p) for p in network.parameters()]


def test_three_convolutions_are_bridged_by_a_residual_connection() -> None:
    block = fitted(convolutions=3).block1.eval()
    features = torch.randn(2, 24, 8, 8)
    inside = F.gelu(block.norms[0](F.max_pool2d(block.convolutions[0](features), 2)))
    bridged = F.gelu(block.norms[1](block.convolutions[1](inside)))
    expected = F.gelu(block.norms[2](block.convolutions[2](bridged)) + inside)
    torch.testing.assert_close(block(features), expected)


@pytest.mark.parametrize("size", [9, 32, 40])
def test_images_of_other_sizes_give_logits(size: int) -> None:
    assert fitted()(smooth_images(3, size)).isfinite().all()


def test_mirror_view_makes_predictions_blind_to_mirroring() -> None:
    images = smooth_images(8)
    plain, mirrored = fitted().eval(), fitted(test_views="mirror").eval()
    assert not torch.allclose(plain(images), plain(images.flip(-1)))
    torch.testing.assert_close(mirrored(images), mirrored(images.flip(-1)))
    torch.testing.assert_close(mirrored(images), (plain(images) + plain(images.flip(-1))) / 2)


def test_translated_views_weigh_as_much_as_the_image_in_its_place() -> None:
    images = smooth_images(8)
    mirrored, moved = fitted(test_views="mirror").eval(), fitted(test_views="mirror_translate").eval()
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    expected = mirrored(images) / 2 + (mirrored(padded[..., 2:, 2:]) + mirrored(padded[..., :32, :32])) / 4
    torch.testing.assert_close(moved(images), expected)


def test_training_sees_one_view() -> None:
    images = smooth_images(8)
    assert torch.equal(fitted(test_views="mirror_translate").train()(images), fitted().train()(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": None}, "num_classes is None"),
        ({"widths": (0, 8, 8)}, r"network.widths is \[0, 8, 8\]"),
        ({"convolutions": 1}, "network.convolutions is 1"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FastCNN(**{"num_classes": 10, **arguments})


def test_images_too_small_are_refused() -> None:
    with pytest.raises(UserError, match=r"at least 9 x 9 pixels, not 8 x 8: set data.image_size"):
        fitted()(torch.zeros(1, 3, 8, 8))


def test_fit_computes_the_whitening_from_training_images_and_leaves_it_alone(image_folder: Path) -> None:
    data = CIFAR10(str(image_folder), batch_size=9)
    network = FastCNN(3, WIDTHS)
    trainer(1).fit(Classifier(network, 3), datamodule=data)
    expected = FastCNN(3, WIDTHS)
    expected.fit_to_data(data.training_sample(2000))
    assert torch.equal(network.whitening.weight, expected.whitening.weight)
    assert not torch.equal(network.whitening.bias, expected.whitening.bias)


def test_fit_from_starting_weights_keeps_their_whitening(image_folder: Path, tmp_path: Path) -> None:
    source = fitted()
    torch.save(source.state_dict(), tmp_path / "source.pt")
    main(fit_arguments(image_folder, *NARROW, "--init_from", "source.pt"))
    trained = torch.load(run_folder() / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(trained["network.whitening.weight"], source.whitening.weight)


def test_resumed_fit_keeps_its_whitening_and_equals_the_uninterrupted_one(image_folder: Path) -> None:
    def fit(epochs: int, checkpoint: str | None = None) -> tuple[L.Trainer, Classifier]:
        torch.manual_seed(0)
        model = Classifier(FastCNN(3, WIDTHS), 3, optimizer=lambda params: Muon(params, lr=0.05), label_smoothing=0.1)
        runner = trainer(epochs)
        runner.fit(model, datamodule=CIFAR10(str(image_folder), batch_size=9), ckpt_path=checkpoint)
        return runner, model

    first, _ = fit(1)
    first.save_checkpoint("half.ckpt")
    _, resumed = fit(2, "half.ckpt")
    _, uninterrupted = fit(2)
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_unfreezing_trains_a_layer_group_from_its_phase_on(image_folder: Path) -> None:
    model = Classifier(FastCNN(3, WIDTHS), 3, optimizer=lambda params: Muon(params, lr=0.05))
    start = [parameter.detach().clone() for parameter in model.parameters()]
    callback = ProgressiveUnfreezing(schedule="gradual")
    trainer(2, callbacks=[callback]).fit(model, datamodule=CIFAR10(str(image_folder), batch_size=9))
    pairs = zip(model.named_parameters(), start, strict=True)
    assert {name.split(".")[1] for (name, now), before in pairs if not torch.equal(now, before)} == {"block3", "head"}


def test_fit_without_training_images_says_what_to_call() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 3, 32, 32), torch.zeros(4)))
    with pytest.raises(UserError, match=r"call network.fit_to_data"):
        trainer(1).fit(Classifier(FastCNN(3, WIDTHS), 3), loader)


def test_training_sample_is_of_the_training_rows_normalised(image_folder: Path) -> None:
    data = CIFAR10(str(image_folder), validation_fraction=0.5)
    data.setup("fit")
    images = data.read_split("train").inputs
    rows = torch.from_numpy(data._train_rows)
    expected = (images[rows] / 255 - torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)) / torch.tensor(
        [0.2470, 0.2435, 0.2616]
    ).view(3, 1, 1)
    torch.testing.assert_close(data.training_sample(10**6), expected)
    assert len(data.training_sample(7)) == 7


def test_scale_of_a_norm_layer_moves_with_the_network() -> None:
    network = fitted().double()
    assert network.block1.norms[0].weight.dtype == torch.float64
    assert isinstance(network.block1.norms[0], nn.BatchNorm2d)
