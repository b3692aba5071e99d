"""timm's networks: their layer groups, their weights in timm's own format, and how images are prepared for them."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from backbones import TIMM, fit_phases, images, parameters_of_groups, timm_network, trained_by_resumption
from conftest import REPOSITORY
from PIL import Image
from test_cli import error_line
from timm.models import save_for_hf

from lightning_transfer import Classifier, DemoImages, ImageDataModule, TimmNetwork
from lightning_transfer.cli.entry import main
from lightning_transfer.cli.experiment import CommandLine
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.data.decoding import to_array
from lightning_transfer.data.normalisation import preprocessing_of_weights
from lightning_transfer.errors import UserError
from lightning_transfer.files import MIRROR_VARIABLE
from lightning_transfer.networks.head_replacement import replace_head
from lightning_transfer.transfer.weights import load_starting_weights


@pytest.mark.parametrize("name", TIMM)
def test_layer_groups_take_every_parameter_once_from_input_to_head(name: str) -> None:
    built = timm_network(name, num_classes=7)
    groups = parameters_of_groups(built)
    taken = [parameter for listed in groups.values() for parameter in listed]
    assert sorted(taken) == sorted(parameter for parameter, _ in built.named_parameters())
    assert list(groups) == ["stem", *(f"stage{number}" for number in range(1, len(groups) - 1)), "head"]
    assert 5 <= len(groups) <= 6
    assert {len(built.get_parameter(parameter)) for parameter in groups["head"]} == {7}

    order, executed = list(groups), []
    owners = {parameter: order.index(group) for group, listed in groups.items() for parameter in listed}
    for path, module in built.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            place = owners[f"{path}.{parameter}"]
            module.register_forward_pre_hook(lambda *_, place=place: executed.append(place))  # type: ignore[misc]
    built.eval()(images().images)
    assert [place for place in executed if place] == sorted(place for place in executed if place)


@pytest.mark.parametrize("name", TIMM)
def test_gradual_unfreezing_trains_the_head_and_then_the_stage_below(name: str) -> None:
    built = timm_network(name)
    *_, below, head = parameters_of_groups(built)
    trained = fit_phases(built, images())
    assert [list(groups) for groups in trained] == [[head], [below, head]]


@pytest.mark.parametrize("name", TIMM)
def test_run_resumed_in_mid_epoch_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    resumed, expected = trained_by_resumption(lambda: timm_network(name), [images(seed) for seed in range(3)], tmp_path)
    torch.testing.assert_close(resumed, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", TIMM)
def test_folder_of_timm_gives_every_backbone_tensor_as_timms_own_loader_does(name: str, tmp_path: Path) -> None:
    source = timm.create_model(name, num_classes=5, **TIMM[name])
    save_for_hf(source, tmp_path / "saved", safe_serialization=True)
    loaded = timm_network(name, seed=1)
    report = load_starting_weights(Classifier(loaded, 3), tmp_path / "saved")
    own = timm.create_model(name, num_classes=5, **TIMM[name], checkpoint_path=tmp_path / "saved/model.safetensors")
    head = set(parameters_of_groups(loaded)["head"])
    for parameter, value in own.state_dict().items():
        if f"model.{parameter}" not in head:
            assert torch.equal(loaded.state_dict()[f"model.{parameter}"], value), parameter
    assert {anew.removeprefix("network.") for anew in report.made_anew} == head
    assert not report.left_over


def test_old_names_of_timms_files_are_those_of_today_and_what_is_dropped_is_told(tmp_path: Path) -> None:
    """Swin's older files hold tables that are computed anew today."""
    name = "swin_tiny_patch4_window7_224"
    source = timm_network(name).model.state_dict()
    table = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4)}
    torch.save({**source, **table}, tmp_path / "old.pth")
    report = load_starting_weights(loaded := timm_network(name, seed=1), tmp_path / "old.pth")
    assert report.left_over == list(table)
    torch.testing.assert_close(loaded.model.state_dict(), source, rtol=0, atol=0)


@pytest.mark.parametrize("containers", [("model",), ("model", "model_ema")], ids=len)
def test_files_that_hold_the_network_in_containers_are_adapted_as_timms_own_are(
    containers: tuple[str, ...], tmp_path: Path
) -> None:
    large = timm_network("test_vit", img_size=96).model.state_dict()
    content: dict[str, Any] = dict.fromkeys(containers, large)
    torch.save(large, tmp_path / "bare.pth")
    torch.save({**content, "epoch": 3}, tmp_path / "contained.pth")
    loaded = [Classifier(timm_network("test_vit", seed=1), 3) for _ in range(2)]
    load_starting_weights(loaded[0], tmp_path / "bare.pth")
    load_starting_weights(loaded[1], f"{tmp_path / 'contained.pth'}::{containers[0]}")
    torch.testing.assert_close(loaded[1].state_dict(), loaded[0].state_dict(), rtol=0, atol=0)


def test_name_of_timm_is_found_in_a_mirror_with_its_usual_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_for_hf(timm_network("test_resnet").model, tmp_path / "timm/test_resnet.r160_in1k", safe_serialization=True)
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    for source in ("timm/test_resnet", "timm/test_resnet.r160_in1k"):
        report = load_starting_weights(loaded := timm_network("test_resnet", seed=1), source)
        torch.testing.assert_close(loaded.state_dict(), timm_network("test_resnet").state_dict(), rtol=0, atol=0)
        assert not report.made_anew
    with pytest.raises(UserError, match="timm has no weights 'test_resne': did you mean test_resnet"):
        load_starting_weights(loaded, "timm/test_resne")


def test_name_that_no_mirror_has_says_where_to_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"'timm/resnet18.a1_in1k' is no folder and in no mirror, .* holds timm/resnet18"
    ):
        load_starting_weights(timm_network("test_resnet"), "timm/resnet18")


def test_folder_without_weights_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no model\.safetensors: expected weights saved by save_pretrained"):
        load_starting_weights(timm_network("test_resnet"), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "timm has no network 'resnet81': did you mean resnet18"),
        ({"name": "hf-hub:owner/name"}, "timm has no network 'hf-hub:owner/name'"),
        ({"name": "resnet18.zzz"}, "timm has no weights 'zzz' of resnet18: expected .*a1_in1k, "),
        ({"name": "resnet18", "num_classes": None}, "num_classes is None: expected at least 1"),
        ({"name": "resnet18", "model_arguments": {"foo": 1}}, "resnet18 does not take model_arguments .*'foo'"),
        (
            {"name": "resnet18", "model_arguments": {"pretrained": True}},
            "'pretrained': the weights come from init_from",
        ),
        (
            {"name": "resnet18", "model_arguments": {"in_chans": 1}},
            "'in_chans': the weights come from init_from, the classes from the data, and images have three channels",
        ),
        ({"name": "qwen3_vit_306m_enc"}, "Qwen3VitEncoder of timm has no classifier with weights"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(arguments, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message), torch.device("meta"):
        TimmNetwork(**{"num_classes": 7} | arguments)


def test_network_for_one_size_of_images_refuses_others() -> None:
    with (
        torch.device("meta"),
        pytest.raises(
            UserError,
            match=r"vit_tiny_patch16_224 does not take images of 32 x 64 pixels \(.*224.*\): set data\.image_size",
        ),
    ):
        TimmNetwork(3, "vit_tiny_patch16_224")(torch.zeros(1, 3, 32, 64))


@pytest.mark.parametrize(("name", "size"), [("levit_128s", 32), ("inception_v3", 32)])
def test_sizes_that_torch_refuses_are_explained_too(name: str, size: int) -> None:
    with pytest.raises(UserError, match=f"{name} does not take images of {size} x {size} pixels .*set data.image_size"):
        TimmNetwork(3, name)(torch.zeros(2, 3, size, size))


@pytest.mark.parametrize("name", ["test_convnext", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
def test_weights_of_another_network_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    torch.save(timm_network("test_vit").model.state_dict(), tmp_path / "vit.pt")
    torch.save(timm_network("swin_tiny_patch4_window7_224").model.state_dict(), tmp_path / "swin.pt")
    for source in ("vit.pt", "swin.pt"):
        with pytest.raises(UserError, match=r"the weights of .* do not fit TimmNetwork: "), torch.device("meta"):
            load_starting_weights(TimmNetwork(3, name), tmp_path / source)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "repvit_m0_9"])
def test_classifiers_side_by_side_are_not_replaced_by_one(name: str) -> None:
    with torch.device("meta"):
        assert not timm_network("test_vit").has_several_heads
        with pytest.raises(UserError, match="the head of TimmNetwork has several classifiers side by side"):
            replace_head(TimmNetwork(3, name), lambda layer: layer)


def test_library_that_is_not_installed_is_named_before_any_data_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "timm" else find(name, *more))
    monkeypatch.setattr(DemoImages, "class_names", property(lambda self: pytest.fail("data was read")))
    network = ["--model.network", "TimmNetwork", "--model.network.name", "resnet18"]
    line = error_line(capsys, "fit", "--data", "DemoImages", *network, "--trainer.accelerator", "cpu")
    assert line.startswith(f"TimmNetwork needs timm, which is not installed: {sys.executable} -m pip install ")
    assert line.endswith(" 'lightning-transfer[timm]'")


def test_images_are_prepared_as_timm_says() -> None:
    found = preprocessing_of_weights("timm/test_resnet.r160_in1k")
    assert found == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 160, "bilinear")
    data = ImageDataModule("no/matter", normalise_as="timm/test_resnet")
    assert data.image_size == 160
    assert ImageDataModule("no/matter", normalise_as="timm/test_resnet", image_size=48).image_size == 48
    with pytest.raises(UserError, match="no weights 'timm/resnet81'"):
        preprocessing_of_weights("timm/resnet81")


def test_folder_of_timm_says_how_images_are_prepared_and_resized(tmp_path: Path) -> None:
    save_for_hf(timm_network("test_resnet").model, tmp_path / "saved", safe_serialization=True)
    config = json.loads((tmp_path / "saved/config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "input_size": [3, 24, 24], "interpolation": "nearest"}
    (tmp_path / "saved/config.json").write_text(json.dumps(config))
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for row in range(8):
            file = tmp_path / "set" / split / f"kind{row % 2}" / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    options = {"image_column": "image", "validation_fraction": 0.5}
    usual = ImageDataModule(str(tmp_path / "set"), image_size=24, **options).read_split("train").inputs
    data = ImageDataModule(str(tmp_path / "set"), normalise_as=str(tmp_path / "saved"), **options)
    images = data.read_split("train").inputs
    assert images.shape == (8, 3, 24, 24)
    assert not torch.equal(images, usual)
    with Image.open(next((tmp_path / "set/train/kind0").glob("0.png"))) as image:
        expected = to_array(image, 24, interpolation="nearest")
    assert any(np.array_equal(expected, found) for found in images.numpy())
    assert data.normalisation[0].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])

    data.setup("fit")
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    restored = ImageDataModule(str(tmp_path / "set"), **options)
    restored.load_state_dict(data.state_dict())
    assert torch.equal(restored.read_split("train").inputs, images)


def test_command_line_prepares_images_as_the_starting_weights_say_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_for_hf(timm_network("test_resnet", 3).model, tmp_path / "timm/test_resnet.r160_in1k", safe_serialization=True)
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path))
    arguments = [
        *("--data", "DemoImages", "--data.batch_size", "2", "--init_from", "timm/test_resnet.r160_in1k"),
        *("--model.network", "TimmNetwork", "--model.network.name", "test_resnet", "--model.lr_decay", "2"),
        *("--trainer.callbacks+", "ProgressiveUnfreezing", "--trainer.accelerator", "cpu", "--dashboards", "null"),
        *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
    ]
    command = CommandLine(["plan", *arguments], StopSignals())
    assert command.datamodule.normalisation[0].flatten().tolist() == [0.5, 0.5, 0.5]
    main(["fit", *arguments])
    saved = torch.load("logs/default/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    built = TimmNetwork(len(DemoImages().class_names), "test_resnet")
    built.load_state_dict({name.removeprefix("network."): value for name, value in saved.items()})
    assert torch.equal(built.model.conv1[0].weight, timm_network("test_resnet", 3).model.conv1[0].weight)  # type: ignore[index]
    shutil.rmtree(tmp_path / "timm")  # what says how images are prepared is in the checkpoint
    run = "logs/default/version_0"
    main(["predict", "--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/last.ckpt"])
    assert Path("predictions.jsonl").read_text().count("\n") > 10


def test_weights_of_another_implementation_are_read_by_a_file_of_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    inside = {"conv_pwl": "_project_conv", "conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv"}
    inside |= {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    blocks = {id(block): place for place, block in enumerate(block for stage in built.blocks for block in stage)}
    theirs = {}
    for name, value in built.state_dict().items():
        top, *rest = name.split(".")
        if top == "blocks":
            number = blocks[id(built.blocks[int(rest[0])][int(rest[1])])]
            names = inside if number else first
            theirs[f"_blocks.{number}.{names[rest[2]]}.{rest[3]}"] = value
        else:
            theirs[".".join([outside[top], *rest])] = value
    torch.save(theirs, tmp_path / "lite0.pth")
    arguments = [
        *("--data", "DemoImages", "--data.image_size", "32", "--dashboards", "null", "--trainer.accelerator", "cpu"),
        *("--model.network", "TimmNetwork", "--model.network.name", "tf_efficientnet_lite0"),
        *("--init_from", str(tmp_path / "lite0.pth"), "--config", "configs/options/efficientnet_lite0_names.yaml"),
        *("--trainer.callbacks+", "ProgressiveUnfreezing"),
    ]
    command = CommandLine(["plan", *arguments], StopSignals())
    command.before_fit()
    assert f"starting weights: {len(theirs)} tensors loaded" in capsys.readouterr().out
    torch.testing.assert_close(command.model.network.model.state_dict(), built.state_dict(), rtol=0, atol=0)
    with pytest.raises(UserError, match=r"init_rename has '\(': expected a regular expression"):
        load_starting_weights(command.model, tmp_path / "lite0.pth", rename=[("(", "")])


def test_documented_commands_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "docs" / "backbones.md").read_text(), re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    Path("my_module.py").write_text("import torch\n\nclass MyNetwork(torch.nn.Module): ...\n")
    assert len(commands) >= 6
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            main([*command, "--print_config"])
        assert stop.value.code == 0, command
