"""torchvision's networks: what their layer groups take, in which order, and how they fit experiments."""

import re
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import REPOSITORY, run_folder
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models
from torchvision.models import regnet

from lightning_transfer import Classifier, DemoImages, ProgressiveUnfreezing, TorchvisionNetwork
from lightning_transfer.cli.entry import main
from lightning_transfer.cli.experiment import CommandLine
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.data.normalisation import preprocessing_of_weights
from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import resolve_layer_groups
from lightning_transfer.networks.torchvision import _NAMED_STAGES, _SEQUENCES, torchvision_layer_groups

NAMES = models.list_models(module=models)
SMALL_STEMS = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1"),
]
SMALLEST_OF_FAMILY = [*(name for name in SMALL_STEMS if name != "squeezenet1_0"), "inception_v3", "swin_t", "vgg11"]


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks without memory for their parameters: the largest has 645 million."""
    widths = regnet.BlockParams.from_init_params

    def on_cpu(*args, **kwargs) -> regnet.BlockParams:  # type: ignore[no-untyped-def]  # RegNet reads them from tensors
        with torch.device("cpu"):
            return widths(*args, **kwargs)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)
    with torch.device("meta"):
        yield


class CutDown(nn.Module):
    """A network of one of torchvision's classes that is smaller than those with a name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        groups = torchvision_layer_groups(model)
        self.layer_groups = {name: [f"model.{path}" for path in paths] for name, paths in groups.items()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)


def cut_down_maxvit() -> nn.Module:
    sizes = {"stem_channels": 8, "block_channels": [8, 8, 8, 8], "block_layers": [1, 1, 1, 1], "head_dim": 4}
    return models.MaxVit(input_size=(64, 64), partition_size=2, stochastic_depth_prob=0.0, num_classes=3, **sizes)


def cut_down_vit() -> nn.Module:
    sizes = {"image_size": 64, "patch_size": 16, "num_layers": 4, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    return models.VisionTransformer(num_classes=3, **sizes)


CUT_DOWN = {"maxvit": cut_down_maxvit, "vision_transformer": cut_down_vit}


def parameters_of_groups(network: nn.Module) -> dict[str, list[str]]:
    groups = resolve_layer_groups(network, network.layer_groups)  # type: ignore[arg-type]
    return {group.name: list(group.parameters) for group in groups.values()}


def executed_groups(network: nn.Module, image_size: int) -> list[str]:
    """The groups of the modules with parameters, as they are called."""
    owners = {parameter: group for group, listed in parameters_of_groups(network).items() for parameter in listed}
    executed: list[str] = []
    for path, module in network.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            group = owners[f"{path}.{name}"]
            module.register_forward_pre_hook(lambda *_, group=group: executed.append(group))  # type: ignore[misc]
    network.eval()(torch.empty(2, 3, image_size, image_size))
    return executed


@pytest.mark.parametrize("name", NAMES)
def test_layer_groups_take_every_parameter_once_from_input_to_head(meta: None, name: str) -> None:
    network = TorchvisionNetwork(999, name)
    groups = parameters_of_groups(network)
    taken = [parameter for listed in groups.values() for parameter in listed]
    assert sorted(taken) == sorted(parameter for parameter, _ in network.named_parameters())

    order = list(groups)
    assert order[0] in ("stem", "embedding")
    assert order[-1] == "head"
    assert 5 <= len(order) <= 8
    by_classes = {parameter for parameter in taken if network.get_parameter(parameter).shape[0] == 999}
    assert by_classes
    assert by_classes <= set(groups["head"])

    executed = [order.index(group) for group in executed_groups(network, 299 if name == "inception_v3" else 224)]
    assert executed == sorted(executed)
    assert set(executed) == set(range(len(order)))


@pytest.mark.parametrize("name", [*SMALLEST_OF_FAMILY, *CUT_DOWN])
def test_gradual_unfreezing_trains_the_head_and_then_the_group_below(name: str) -> None:
    torch.manual_seed(0)
    network = CutDown(CUT_DOWN[name]()) if name in CUT_DOWN else TorchvisionNetwork(3, name)
    image_size = 75 if name == "inception_v3" else 64
    groups = list(parameters_of_groups(network).items())
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    trained: list[set[str]] = []

    class Recorder(L.Callback):
        def on_train_batch_end(self, *_) -> None:  # type: ignore[no-untyped-def, override]
            trained.append({name for name, parameter in network.named_parameters() if parameter.grad is not None})

    model = Classifier(network, num_classes=3, optimizer=lambda params: torch.optim.SGD(params, lr=0.01))
    batch = ImageBatch(torch.randn(2, 3, image_size, image_size), torch.tensor([0, 2]), torch.arange(2))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    callbacks = [ProgressiveUnfreezing(until={"epochs": 1}), Recorder()]
    L.Trainer(max_epochs=2, callbacks=callbacks, enable_model_summary=False, **quiet).fit(
        model, DataLoader([batch], batch_size=None)
    )

    (_, below), (_, head) = groups[-2:]
    assert trained == [set(head), {*head, *below}]
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed <= {*head, *below}
    assert changed & set(head)
    assert changed & set(below)


@pytest.mark.parametrize("name", SMALL_STEMS)
def test_small_images_keep_the_resolution_of_the_stem(meta: None, name: str) -> None:
    plain, small = TorchvisionNetwork(7, name), TorchvisionNetwork(7, name, small_images=True)
    assert small.layer_groups == plain.layer_groups
    outputs: list[torch.Tensor] = []
    first = next(part for part in small.modules() if isinstance(part, nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    assert small.eval()(torch.empty(2, 3, 32, 32)).shape == (2, 7)
    assert outputs[0].shape[-2:] == (32, 32)


def test_small_images_resnet_ends_with_4_by_4_features() -> None:
    network = TorchvisionNetwork(7, "resnet18", small_images=True)
    assert network.model.conv1.weight.shape == (64, 3, 3, 3)
    shapes: list[torch.Size] = []
    for layer in (network.model.layer1, network.model.layer4):
        layer.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == [(2, 64, 32, 32), (2, 512, 4, 4)]


def test_names_of_parameters_are_torchvisions_own_behind_model() -> None:
    network = TorchvisionNetwork(7, "resnet18", model_arguments={"zero_init_residual": True})
    state = {name.removeprefix("model."): value for name, value in network.state_dict().items()}
    models.resnet18(num_classes=7).load_state_dict(state)
    assert not network.model.layer1[0].bn2.weight.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "torchvision has no classification network 'resnet81': did you mean resnet18"),
        ({"name": "zzz"}, "network 'zzz': expected one of alexnet, .*, wide_resnet50_2"),
        ({"name": "deeplabv3_resnet50"}, "torchvision has no classification network 'deeplabv3_resnet50'"),
        ({"name": "resnet18", "num_classes": None}, "num_classes is None: expected at least 1"),
        (
            {"name": "vgg11", "small_images": True},
            "vgg11 has no stem for small_images: it begins with stride 1 already",
        ),
        ({"name": "resnet18", "model_arguments": {"dropout": 0.1}}, "resnet18 does not take .*'dropout'"),
        ({"name": "vit_b_32", "model_arguments": {"image_size": 33}}, "vit_b_32 does not take .*indivisible"),
        ({"name": "resnet18", "model_arguments": {"weights": "DEFAULT"}}, "'weights': the weights come from init_from"),
        (
            {"name": "googlenet", "model_arguments": {"aux_logits": True}},
            "no layer group takes 'aux1.conv.conv.weight'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_explained(meta: None, arguments, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        TorchvisionNetwork(**{"num_classes": 7} | arguments)


def test_a_class_that_no_rule_covers_is_an_error() -> None:
    with pytest.raises(UserError, match="no layer groups are known for Linear: expected one of AlexNet, ConvNeXt"):
        torchvision_layer_groups(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        *(("alexnet", 63), ("convnext_tiny", 32), ("densenet121", 29), ("googlenet", 15), ("inception_v3", 75)),
        *(("squeezenet1_0", 21), ("vgg11", 32)),
    ],
)
def test_images_that_are_too_small_are_refused_and_no_others(meta: None, name: str, smallest: int) -> None:
    network = TorchvisionNetwork(7, name).eval()
    assert network(torch.empty(2, 3, smallest, smallest)).shape == (2, 7)
    expected = f"{name} takes images of at least {smallest} x {smallest} pixels, not {smallest - 1} x {smallest}"
    with pytest.raises(UserError, match=f"{expected}: set data.image_size"):
        network(torch.empty(2, 3, smallest - 1, smallest))


@pytest.mark.parametrize(
    ("name", "arguments", "image_size"),
    [
        ("vit_b_16", {}, 224),
        ("vit_b_16", {"image_size": 64}, 64),
        ("maxvit_t", {}, 224),
        ("maxvit_t", {"input_size": [448, 448]}, 448),
    ],
)
def test_networks_for_one_size_of_images_refuse_others(meta: None, name, arguments, image_size) -> None:  # type: ignore[no-untyped-def]
    network = TorchvisionNetwork(7, name, model_arguments=arguments).eval()
    assert network(torch.empty(2, 3, image_size, image_size)).shape == (2, 7)
    expected = f"{name} takes images of exactly {image_size} x {image_size} pixels, not 256 x 256"
    with pytest.raises(UserError, match=expected):
        network(torch.empty(2, 3, 256, 256))


def test_images_are_normalised_as_those_that_the_weights_saw() -> None:
    mean, std, size, interpolation = preprocessing_of_weights("ResNet18_Weights.DEFAULT")
    assert (mean, std, size, interpolation) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None, None)
    weights = models.EfficientNet_V2_L_Weights.IMAGENET1K_V1
    data = DemoImages(normalise_as=str(weights), mean=(0.1, 0.1, 0.1))
    pixels = torch.randint(256, (2, 3, 480, 480), dtype=torch.uint8)
    normalised = data.on_after_batch_transfer(ImageBatch(pixels, torch.zeros(2), torch.zeros(2)), 0).images
    torch.testing.assert_close(normalised, weights.transforms()(pixels))


def test_images_are_normalised_as_the_starting_weights_say(own_folder: Path) -> None:
    unfreezing = ["--trainer.callbacks+", "ProgressiveUnfreezing"]
    arguments = ["plan", "--data", "DemoImages", "--model.network", "SeedCNN", "--trainer.accelerator", "cpu"]
    for source, means in (("ResNet18_Weights.DEFAULT", [0.485, 0.456, 0.406]), ("my_Weights.ckpt", [0.5] * 3)):
        command = CommandLine([*arguments, *unfreezing, "--init_from", source], StopSignals())
        mean, _ = command.datamodule.normalisation
        torch.testing.assert_close(mean.flatten(), torch.tensor(means))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet18_Weights.IMAGENET1K_V2", "did you mean ResNet18_Weights.IMAGENET1K_V1"),
        ("imagenet", "torchvision has no weights 'imagenet': expected one like ResNet18_Weights.IMAGENET1K_V1"),
        ("resnet18.IMAGENET1K_V1", "torchvision has no weights 'resnet18.IMAGENET1K_V1': did you mean ResNet18"),
    ],
)
def test_unknown_weights_to_normalise_as_are_explained(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DemoImages(normalise_as=name)


def test_command_line_trains_a_network_by_its_name() -> None:
    main(
        [
            "fit",
            *("--data", "DemoImages", "--data.batch_size", "2"),
            *("--data.normalise_as", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"),
            *("--model.network", "TorchvisionNetwork", "--model.network.name", "shufflenet_v2_x0_5"),
            *("--model.network.small_images", "true", "--model.lr_decay", "2"),
            *("--trainer.callbacks+", "ProgressiveUnfreezing", "--trainer.accelerator", "cpu"),
            *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
        ]
    )
    checkpoint = torch.load(run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
    network = TorchvisionNetwork(len(DemoImages().read_class_names()), "shufflenet_v2_x0_5", small_images=True)
    state = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("network.")}
    network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})


def test_command_line_says_an_unknown_name_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    network = ["--model.network", "TorchvisionNetwork", "--model.network.name", "resnet81"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--data", "DemoImages", *network, "--trainer.accelerator", "cpu"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "torchvision has no classification network 'resnet81': did you mean resnet18" in message


def test_documented_layer_groups_are_those_of_the_networks(meta: None) -> None:
    table = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (REPOSITORY / "docs" / "backbones.md").read_text(), re.MULTILINE)
    families = set()
    for name, documented in table:
        network = TorchvisionNetwork(1000, name)
        groups = parameters_of_groups(network).items()
        counts = {group: sum(network.get_parameter(path).numel() for path in listed) for group, listed in groups}
        assert documented == ", ".join(f"{group} {count / 1000:.0f}" for group, count in counts.items()), name
        families.add(type(network.model).__name__)
    assert families == {*_NAMED_STAGES, *_SEQUENCES}
