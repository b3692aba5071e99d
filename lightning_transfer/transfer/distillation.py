"""Keeps what the head of the source says of the target's examples: learning without forgetting, LwF."""

import copy
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import LayerGroup, some_of
from lightning_transfer.networks.trial_passes import is_trial_pass
from lightning_transfer.transfer.feature_penalty import FeaturePenalty
from lightning_transfer.transfer.shown_groups import head_above_layers
from lightning_transfer.transfer.starting_point import KeptStart
from lightning_transfer.transfer.value_checks import check_amount
from lightning_transfer.transfer.weights import WeightsReport


class LearningWithoutForgetting(KeptStart, FeaturePenalty):
    """Adds a penalty to the loss: strength times the divergence of the old head's classes from what they were.

    The old network is the one that the fit starts from, with the head of the source, and stays as it is. It classifies
    each training batch, and its head also classifies the features that train. Both distributions are softened by the
    temperature. The penalty is the Kullback-Leibler divergence between them, which acts on all layers below the head.
    No logged loss has it. A step costs one more forward pass, and the old network is in every checkpoint.

    It applies where the source has a head: a checkpoint of a classifier, with any number of classes. The command line
    takes the head from ``init_from``. In Python it is given as ``old_head``, else the head at the start counts as old.

    Args:
        strength: Weight of the penalty.
        temperature: Number by which the outputs of the old head are divided before the softmax.

    Attributes:
        old_head: The tensors of the source's head by their names in the module, as ``load_starting_weights(...).head``
            gives them.

    Raises:
        UserError: If a value is out of range. On ``fit``, if the strategy divides the weights over the ranks, the
            module steps its optimizers by hand, or the old head does not fit. In the first step, if the head is given
            no features, or the network is not called as a module.

    Source:
        Li and Hoiem, Learning without Forgetting, 2016. There the old head trains too, and a warm-up trains the new one
        alone, as ``lp_ft`` does.
    """

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        check_amount("strength", strength)
        check_amount("temperature", temperature, or_more=False)
        self.strength, self.temperature = strength, temperature
        self.old_head: Mapping[str, Tensor] = {}
        self._old_network: pl.LightningModule | None = None
        self._names: dict[nn.Module, str] = {}  # the modules around the head, from the outermost one
        self._call: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
        self._outputs: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the old network, and follows what the network and its head are given."""
        if (kind := getattr(pl_module, "problem_type", "classification")) != "classification":
            raise UserError(
                f"data.problem_type is {kind}: expected classification, as LearningWithoutForgetting keeps one class of"
                " each example"
            )
        head = head_above_layers(trainer, pl_module)
        if not (followed := self._followed(head)):
            raise UserError(f"the layer group {head.name} has weights alone: LearningWithoutForgetting needs a module")
        if not self._start:
            self._check_old_head(head)
            start = {name: value.clone() for name, value in pl_module.state_dict().items() if isinstance(value, Tensor)}
            self._start = start | dict(self.old_head)
        # The copy comes before any hook of this callback.
        self._old_network = _with_tensors(copy.deepcopy(pl_module), self._start).requires_grad_(False).eval()
        super().on_train_start(trainer, pl_module)
        paths = {module: path for path, module in pl_module.named_modules()}
        around = [module for module in paths if any(part is followed[0] for part in module.modules())]
        self._names = {module: paths[module] for module in around if module is not followed[0]}
        self._hooks += [module.register_forward_pre_hook(self._keep_call, with_kwargs=True) for module in self._names]
        self._old_head = self._old_network.get_submodule(paths[followed[0]])
        self._old_head.register_forward_hook(self._keep_outputs)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the module as it was before the fit."""
        super().teardown(trainer, pl_module, stage)
        self._old_network, self._names = None, {}

    def penalty(self, features: Tensor) -> Tensor:
        """Computes the penalty of the batch that the network was called with.

        Args:
            features: What its head was given, float [batch, ...].
        """
        assert self._old_network is not None
        if self._call is None:
            raise UserError(
                "LearningWithoutForgetting has not seen the network called: call it as a module in training_step, such"
                " as self(inputs), and set model.compile false"
            )
        (path, arguments, keywords), self._call = self._call, None
        with torch.no_grad():
            self._old_network.get_submodule(path)(*arguments, **keywords)
        before, self._outputs = self._outputs, None
        now = self._old_head(features)
        assert before is not None
        if before.ndim < 2 or before.shape[-1] < 2:
            raise UserError(
                f"the old head gives [{', '.join(map(str, before.shape))}]: LearningWithoutForgetting keeps classes,"
                " expected two or more"
            )
        ours, theirs = (
            (outputs.float() / self.temperature).flatten(0, -2).log_softmax(-1) for outputs in (now, before)
        )
        return self.strength * nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)

    def _check_old_head(self, head: LayerGroup) -> None:
        missing = [name for name in head.parameters if name not in self.old_head]
        if self.old_head and missing:
            raise UserError(
                f"the source's head has no {missing[0]}: LearningWithoutForgetting needs the weights of a classifier"
                f" whose head is of the same kind, with {some_of(list(head.parameters))}"
            )

    def _followed(self, head: LayerGroup) -> list[nn.Module]:
        inner = {part for module in head.modules for part in module.modules() if part is not module}
        return [module for module in head.modules if module not in inner][-1:]

    def _forget_batch(self) -> None:
        super()._forget_batch()
        self._call = None  # validation calls the network too, and so does a phase in which only the head trains

    def _keep_call(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        # A LightningModule may check the outputs of its network, and the old head has others.
        if (self._call is None or not self._call[0]) and not is_trial_pass():
            self._call = self._names[module], arguments, keywords

    def _keep_outputs(self, _: nn.Module, __: tuple[Any, ...], outputs: Tensor) -> None:
        self._outputs = outputs


def give_old_head(trainer: pl.Trainer, report: WeightsReport | None) -> None:
    """Gives the head of the starting weights to the callback that keeps it, where the trainer has one.

    Args:
        trainer: The trainer, before a fit from its beginning.
        report: What was loaded; None where nothing was.

    Raises:
        UserError: If there is no head to keep.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LearningWithoutForgetting):
            if report is None or not report.head:
                source = "a fit from fresh weights" if report is None else report.source
                raise UserError(
                    f"LearningWithoutForgetting keeps what an old head says, and {source} has none: set init_from to"
                    " the checkpoint of a classifier"
                )
            callback.old_head = report.head


def _with_tensors(module: pl.LightningModule, tensors: Mapping[str, Tensor]) -> pl.LightningModule:
    """Puts tensors into a module by name, also those of another shape."""
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        tensor = tensor.to(module.device)
        # By its attribute, because a recurrent layer keeps its weights in a list too.
        setattr(owner, last, nn.Parameter(tensor, False) if last in owner._parameters else tensor)
    return module
