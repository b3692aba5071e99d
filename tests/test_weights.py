"""Starting weights: what fits is loaded, what does not is named, and nothing in a file is executed."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import pytest
import torch
from conftest import fit_arguments, run_folder
from torch import nn
from torchvision import models

from lightning_transfer import Classifier, SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.sources import checkpoint_of
from lightning_transfer.transfer.weights import load_starting_weights


@pytest.fixture
def checkpoint(image_folder: Path) -> Path:
    """A checkpoint of this project: SeedCNN with three classes."""
    main(fit_arguments(image_folder, "--experiment", "source"))
    return run_folder("source") / "checkpoints" / "best.ckpt"


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_same_task_is_loaded_whole(checkpoint: Path) -> None:
    model = Classifier(SeedCNN(3), 3)
    report = load_starting_weights(model, str(checkpoint))
    assert set(report.loaded) == set(model.state_dict())
    assert report.made_anew == {}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors(checkpoint)[name])


def test_classes_in_another_order_are_moved_in_the_head_alone(checkpoint: Path) -> None:
    saved = tensors(checkpoint)
    model = Classifier(SeedCNN(3), 3)
    report = load_starting_weights(model, str(checkpoint), class_names=["class2", "class0", "class1"])
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, saved[name])}
    assert moved == {"network.head.weight", "network.head.bias"} == set(report.by_class)
    assert torch.equal(model.network.head.weight, saved["network.head.weight"][[2, 0, 1]])
    assert "  by class    network.head.bias (the source has the classes in another order)" in str(report)
    for names in (["class0", "class1", "class2"], ["cat", "dog", "owl"]):  # other classes are loaded as they are
        report = load_starting_weights(model, str(checkpoint), class_names=names)
        assert report.by_class == []
        assert torch.equal(model.network.head.weight, saved["network.head.weight"])


def test_tensor_that_has_no_place_in_the_network_is_refused_by_name(tmp_path: Path) -> None:
    model = Classifier(SeedCNN(3), 3)
    source = tmp_path / "source.ckpt"
    torch.save({"state_dict": {**model.state_dict(), "network.extra.weight": torch.ones(2)}}, source)
    with pytest.raises(UserError, match=r"network\.extra\.weight is in the source only; choose the same architecture"):
        load_starting_weights(model, str(source))
    report = load_starting_weights(model, str(source), ["network.extra.*"])
    assert set(report.loaded) == set(model.state_dict())


def test_run_is_worth_its_best_checkpoint_and_without_one_its_last(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.ckpt", "best.ckpt"):
        (folder / name).touch()
        assert checkpoint_of(tmp_path) == folder / name


def test_head_is_made_anew_for_another_number_of_classes(checkpoint: Path) -> None:
    model = Classifier(SeedCNN(7), 7)
    fresh = model.network.head.weight.clone()
    report = load_starting_weights(model, str(checkpoint))
    assert set(report.made_anew) == {"network.head.weight", "network.head.bias"}
    assert report.made_anew["network.head.weight"] == "7 x 84, 3 x 84 in the source"
    assert torch.equal(model.network.head.weight, fresh)
    assert torch.equal(model.network.hidden1.weight, tensors(checkpoint)["network.hidden1.weight"])
    assert "made anew   network.head.bias (7, 3 in the source)" in str(report)


class _TwoLayerHead(SeedCNN):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.head = nn.Sequential(nn.Linear(84, 20), nn.ReLU(), nn.Linear(20, num_classes))


def test_head_of_another_kind_is_made_anew_and_the_old_one_left_over(checkpoint: Path) -> None:
    linear, two_layers = SeedCNN(3), _TwoLayerHead(3)
    of_linear, of_two_layers = (
        {"head.weight", "head.bias"},
        {f"head.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")},
    )
    report = load_starting_weights(two_layers, str(checkpoint))
    assert (set(report.made_anew), set(report.left_over)) == (of_two_layers, of_linear)
    assert torch.equal(two_layers.hidden2.weight, tensors(checkpoint)["network.hidden2.weight"])
    torch.save(two_layers.state_dict(), "two_layers.pt")
    report = load_starting_weights(linear, "two_layers.pt")
    assert (set(report.made_anew), set(report.left_over)) == (of_linear, of_two_layers)
    assert torch.equal(linear.hidden2.weight, two_layers.hidden2.weight)


def test_wider_input_stem_is_an_error_that_changes_nothing(checkpoint: Path) -> None:
    model = SeedCNN(3)
    model.convolution1 = nn.Conv2d(4, 6, 5)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UserError, match=r"convolution1\.weight is 6 x 4 x 5 x 5, 6 x 3 x 5 x 5 in the source"):
        load_starting_weights(model, str(checkpoint))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    allowed = load_starting_weights(model, str(checkpoint), allow=["convolution1.*"])
    assert set(allowed.made_anew) == {"convolution1.weight"}


def test_bare_network_and_wrapped_network_exchange_weights(tmp_path: Path) -> None:
    bare, wrapped = SeedCNN(10), Classifier(SeedCNN(10), 10)
    torch.save(bare.state_dict(), tmp_path / "bare.pt")
    load_starting_weights(wrapped, str(tmp_path / "bare.pt"))
    assert torch.equal(wrapped.network.hidden2.weight, bare.hidden2.weight)
    torch.save({"state_dict": torch.compile(wrapped).state_dict()}, tmp_path / "compiled.pt")
    other = SeedCNN(10)
    load_starting_weights(other, str(tmp_path / "compiled.pt"))
    assert torch.equal(other.hidden2.weight, bare.hidden2.weight)


class _OfParts(nn.Module):
    layer_groups: ClassVar = ["module", "head"]

    def __init__(self, compiled: bool = False) -> None:
        super().__init__()
        self.module = torch.compile(nn.Linear(2, 2)) if compiled else nn.Linear(2, 2)
        self.head = torch.compile(nn.Linear(2, 2)) if compiled else nn.Linear(2, 2)


@pytest.mark.parametrize("target_compiled", [False, True])
@pytest.mark.parametrize("source_compiled", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_network_with_compiled_parts_and_a_part_named_module_is_loaded_whole(
    source_compiled: bool, target_compiled: bool, wrapped: bool
) -> None:
    source, target = _OfParts(source_compiled), _OfParts(target_compiled)
    torch.save((nn.DataParallel(source) if wrapped else source).state_dict(), "weights.pt")
    report = load_starting_weights(target, "weights.pt")
    assert report.loaded == ["module.weight", "module.bias", "head.weight", "head.bias"]
    for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(theirs, ours)


def test_compiled_head_is_made_anew() -> None:
    torch.save({**_OfParts().state_dict(), "head.weight": torch.zeros(3, 2)}, "weights.pt")
    report = load_starting_weights(_OfParts(compiled=True), "weights.pt")
    assert report.made_anew == {"head.weight": "2 x 2, 3 x 2 in the source"}


class _Versioned(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        raise AssertionError("weights alone are loaded")


def test_extra_state_that_is_no_tensor_stays_as_it_is() -> None:
    source, target = _Versioned(2, 2), _Versioned(2, 2)
    torch.save(source.state_dict(), "weights.pt")
    assert load_starting_weights(target, "weights.pt").loaded == ["weight", "bias"]
    assert torch.equal(target.weight, source.weight)


def test_safetensors_file_is_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source, target = SeedCNN(10), SeedCNN(10)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_starting_weights(target, str(tmp_path / "weights.safetensors"))
    assert torch.equal(target.head.bias, source.head.bias)


def test_local_copy_of_torchvision_weights_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where torch.hub would have put its download, with the hash that its name promises left unchecked.
    source = models.squeezenet1_1()
    file = tmp_path / "hub" / "checkpoints" / Path(models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir(parents=True)
    torch.save(source.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    target = models.squeezenet1_1()
    load_starting_weights(target, "SqueezeNet1_1_Weights.IMAGENET1K_V1")
    assert torch.equal(target.classifier[1].weight, source.classifier[1].weight)


class _Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


def test_pickle_with_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"state_dict": _Bomb()}))
    torch.save({"state_dict": {"weight": _Bomb()}}, tmp_path / "zipped.pt")
    for name in ("bomb.pt", "zipped.pt"):
        with pytest.raises(UserError, match="holds more than weights and was not opened"):
            load_starting_weights(SeedCNN(3), name)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("bomb", "is damaged, or holds more than weights and was not opened"),
        ("truncated", "is damaged: it was cut short"),
    ],
)
def test_local_copy_of_torchvision_weights_is_opened_as_carefully(
    damage: str, message: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps({"weight": _Bomb()}) if damage == "bomb" else checkpoint.read_bytes()[:5000]
    file = tmp_path / "hub" / "checkpoints" / Path(models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"{file} {message}"):
        load_starting_weights(models.squeezenet1_1(), "SqueezeNet1_1_Weights.IMAGENET1K_V1")
    assert not Path("exploded").exists()


def test_download_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tampered").write_bytes(b"tampered")
    monkeypatch.setattr(torch.hub, "urlopen", lambda _: urlopen((tmp_path / "tampered").as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"IMAGENET1K_V1 cannot be downloaded \(invalid hash value.*: fetch https://"):
        load_starting_weights(models.squeezenet1_1(), "SqueezeNet1_1_Weights.IMAGENET1K_V1")
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


class _NormalisedHead(SeedCNN):
    def __init__(self) -> None:
        super().__init__(10)
        self.head = torch.nn.Sequential(torch.nn.BatchNorm1d(84), torch.nn.Linear(84, 10))


def test_new_head_may_have_buffers_and_so_may_the_one_left_over(tmp_path: Path) -> None:
    for source, target in ((SeedCNN(3), _NormalisedHead()), (_NormalisedHead(), SeedCNN(3))):
        torch.save(source.state_dict(), tmp_path / "weights.pt")
        load_starting_weights(target, str(tmp_path / "weights.pt"))
        assert torch.equal(source.state_dict()["convolution1.weight"], target.state_dict()["convolution1.weight"])


def test_truncated_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    for suffix in (".ckpt", ".safetensors"):
        (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="is damaged: it was cut short"):
            load_starting_weights(SeedCNN(3), f"cut{suffix}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: it is empty"),
        (b"<html>not found</html>", "is damaged, or holds more than weights"),
        (b"version https://git-lfs.github.com/spec/v1", "is damaged, or holds more than weights"),
        ([torch.zeros(2)], "holds no tensors by name"),
        (torch.zeros(3), "holds no tensors by name"),
        ({0: torch.zeros(3)}, "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
    ids=["empty", "page", "pointer", "list", "tensor", "numbered", "nothing"],
)
def test_file_of_something_else_is_refused_in_one_line(content: Any, message: str) -> None:
    if isinstance(content, bytes):
        Path("other.pt").write_bytes(content)
    else:
        torch.save(content, "other.pt")
    with pytest.raises(UserError, match=f"^other.pt {message}[^\\n]*$"):
        load_starting_weights(SeedCNN(3), "other.pt")


def test_missing_file_and_unknown_name_are_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"'nowhere\.ckpt' are not a file: give a checkpoint"):
        load_starting_weights(SeedCNN(3), "nowhere.ckpt")
    for name in ("Resnet18_Weights.IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V7"):
        with pytest.raises(UserError, match=r"did you mean ResNet18_Weights\.IMAGENET1K_V1"):
            load_starting_weights(SeedCNN(3), name)


def test_another_architecture_is_refused_with_both_sides(tmp_path: Path) -> None:
    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt do not fit SeedCNN: .*missing in the source"):
        load_starting_weights(SeedCNN(3), "other.pt")


def test_command_line_starts_from_weights_and_records_it(
    checkpoint: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"schedule": "linear_probe"}}
    arguments = ["--init_from", str(checkpoint), "--trainer.callbacks", str([frozen]), "--experiment", "target"]
    main(fit_arguments(image_folder, *arguments))
    assert "starting weights: 10 tensors loaded" in capsys.readouterr().out
    trained = tensors(run_folder("target") / "checkpoints" / "last.ckpt")
    for name, tensor in tensors(checkpoint).items():
        # The frozen backbone is the source's to the last bit; the head is not.
        assert torch.equal(trained[name], tensor) == (".head." not in name), name
    main(fit_arguments(image_folder, "--init_from", str(checkpoint), "--experiment", "whole"))
    trained = tensors(run_folder("whole") / "checkpoints" / "last.ckpt")
    assert not any(torch.equal(trained[name], tensor) for name, tensor in tensors(checkpoint).items())


def test_checkpoint_opens_in_a_script_without_this_package(checkpoint: Path) -> None:
    script = (
        "import sys, torch; sys.modules['lightning_transfer'] = None\n"
        "state = torch.load(sys.argv[1], weights_only=True)['state_dict']\n"
        "weights = {name.removeprefix('network.'): tensor for name, tensor in state.items()}\n"
        "head = torch.nn.Linear(84, 3)\n"
        "print(head.load_state_dict({k.removeprefix('head.'): v for k, v in weights.items() if k.startswith('head.')}))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(checkpoint)], capture_output=True, text=True, check=False)
    assert "All keys matched" in done.stdout, done.stderr
