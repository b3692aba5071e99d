"""Weights as other people's scripts save them: found by where names and shapes fit best, or asked for by name."""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fit_arguments
from test_cli import error_line
from torch import Tensor, nn
from torchvision import models

from lightning_transfer import Classifier, SeedCNN
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.alignment import align
from lightning_transfer.transfer.weights import WeightsReport, load_starting_weights

Weights = dict[str, Tensor]


def network(seed: int = 0, num_classes: int = 10) -> SeedCNN:
    torch.manual_seed(seed)
    return SeedCNN(num_classes)


def under(prefix: str, seed: int = 0) -> Weights:
    return {f"{prefix}{name}": value for name, value in network(seed).state_dict().items()}


def load(content: Any, part: str = "") -> tuple[SeedCNN, WeightsReport]:
    torch.save(content, "foreign.pt")
    module = Classifier(network(seed=9), 10)
    report = load_starting_weights(module, f"foreign.pt{part}")
    return module.network, report  # type: ignore[return-value]


def is_seed(loaded: SeedCNN, seed: int) -> bool:
    expected = network(seed).state_dict()
    return all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def optimizer_state() -> dict[str, Any]:
    source = network()
    optimizer = torch.optim.Adam(source.parameters(), lr=torch.tensor(0.1))
    source(torch.zeros(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "content",
    [
        {"model": under(""), "epoch": 9, "best": torch.tensor(0.9)},
        {"model_state_dict": under("module."), "optimizer_state_dict": optimizer_state()},
        {"net": under(""), "acc": 91.0},
        {"state_dict": under("model.backbone.encoder."), "args": argparse.Namespace(lr=0.1)},
        {"state_dict": under("module._orig_mod.")},
        {"model": {**under("module.encoder_q."), "module.queue": torch.zeros(4, 8)}},
        under("_fsdp_wrapped_module.backbone."),
        [{"weights": under("")}, optimizer_state()],
        {"checkpoint": {"model": {"module": under("")}}, "scheduler": {"last": torch.tensor(3)}},
        {"student": under("backbone."), "teacher": under("backbone.")},  # before the first step
        {"pytorch-lightning_version": "2", "state_dict": under("net."), "current_model_state": under("net.", 1)},
    ],
    ids=["model", "ddp", "net", "deep", "compiled", "moco", "fsdp", "list", "nested", "twice", "average"],
)
def test_network_is_found_wherever_it_is_in_a_file(content: Any) -> None:
    loaded, report = load(content)
    assert is_seed(loaded, 0)
    assert not report.made_anew
    assert report.left_over == (
        ["model.module.queue"]
        if "queue" in str(content.keys() if isinstance(content, dict) else "")
        else report.left_over
    )
    assert not [name for name in report.left_over if "optimizer" in name or "scheduler" in name]


@pytest.mark.parametrize(
    ("content", "first", "second"),
    [
        ({**under("student."), **under("teacher.", 1)}, "student", "teacher"),
        ({"model": under("", 1), "model_ema": under("")}, "model", "model_ema"),
        ({"student": under("module.backbone."), "teacher": under("backbone.", 1)}, "teacher", "student"),
        ({"state_dict": {**under("module.encoder_q."), **under("module.encoder_k.", 1)}}, "encoder_k", "encoder_q"),
        ({**under(""), "ema": under("", 1)}, ".", "ema"),
    ],
    ids=["flat", "ema", "dino", "moco", "outermost"],
)
def test_parts_that_fit_equally_are_refused_and_named(content: Any, first: str, second: str) -> None:
    with pytest.raises(UserError) as refused:
        load(content)
    message = str(refused.value)
    assert message.startswith("foreign.pt holds weights that fit equally in ")
    assert "\n" not in message
    assert first in message
    assert second in message
    assert {is_seed(load(content, f"::{part}")[0], 0) for part in (first, second)} == {True, False}
    # The way out of the message works as it is written.
    named = message.rpartition("foreign.pt")[2]
    assert is_seed(load(content, named)[0], 0) or is_seed(load(content, named)[0], 1)


def test_part_that_fits_better_is_taken() -> None:
    """The teacher's head is of another task."""
    teacher = {name: value for name, value in under("teacher.", 1).items() if "head" not in name}
    assert is_seed(load({**under("student."), **teacher})[0], 0)


def test_part_that_is_not_there_is_refused_with_those_that_are() -> None:
    content = {"state_dict": {**under("student."), **under("teacher.", 1)}, "epoch": 3}
    with pytest.raises(
        UserError, match=r"^the weights have no part 'tutor': expected one of state_dict\.student, state_dict\.te"
    ):
        load(content, "::tutor")


@pytest.mark.parametrize("content", [{"optimizer": optimizer_state()["state"]}, [torch.zeros(2)], {"epoch": 3}, 7])
def test_file_without_a_network_is_refused(content: Any) -> None:
    with pytest.raises(
        UserError, match=r"^foreign.pt holds no tensors by name: expected a checkpoint or a state_dict$"
    ):
        load(content)


def test_module_of_ones_own_takes_a_bare_encoder_at_any_depth() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.wrapped = inner

    torch.save({"model": under("encoder.")}, "foreign.pt")
    inner = network(seed=9)
    report = load_starting_weights(Wrapper(Wrapper(Wrapper(inner))), "foreign.pt")
    assert is_seed(inner, 0)
    assert len(report.loaded) == len(inner.state_dict())


def test_alignment_of_large_networks_takes_little_time() -> None:
    own = models.resnet50().state_dict()
    start = time.process_time()
    names, rivals = align({f"module.backbone.{name}": value for name, value in own.items()}, own)
    assert time.process_time() - start < 5
    assert list(names.values()) == list(own)
    assert rivals == []


def test_command_line_takes_the_part_after_two_colons(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"student": copy.deepcopy(network(num_classes=3).state_dict()), "teacher": network(1, 3).state_dict()}
    torch.save(content, "foreign.pt")
    line = error_line(capsys, *fit_arguments(image_folder, "--init_from", "foreign.pt"))
    assert line == (
        "foreign.pt holds weights that fit equally in student, teacher: name the part, as foreign.pt::student"
    )
