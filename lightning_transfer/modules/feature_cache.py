"""Features of a frozen network, computed once: a phase then costs what it trains, a linear probe its head."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.modules.feature_axes import is_close
from lightning_transfer.modules.feature_table import FeatureTable
from lightning_transfer.modules.network_cut import NetworkCut
from lightning_transfer.modules.shared_features import SharedFeatures, Sharing
from lightning_transfer.networks.layer_groups import REST, LayerGroup, LayerGroups, resolve_layer_groups

_CHECKED_EXAMPLES = 2  # of the first batch in each mode


class FeatureCache:
    """The logits of batches, with what comes before the trained layer groups computed once for each example.

    The network is cut in front of the lowest layer group that is trained at the moment. Features are kept in the
    precision that they were computed in, in memory, on the device, by row. They are forgotten when a layer group below
    is thawed, or a weight or a statistic there changes. On several processes each shares what it has computed with the
    others, as the next epoch deals the rows anew.

    Args:
        network: The network, with layer groups.
        forward: Computes the logits from the inputs by way of the network.
        data: The data module; its ``is_augmented`` says whether an example's inputs change from epoch to epoch, and its
            ``resident_gib`` how much memory the features may take (4 GiB if it has none).
        processes: The number of processes that train.
        is_shared: Whether runs share the features, in the folder of the cache. Each is then computed alone, and nothing
            is kept while nothing is frozen.
        sharing: Counts what runs have shared, also before; none has if not given.

    Attributes:
        rows: int64 [batch], of the batch whose logits come next; None for inputs without rows.
        lengths: int64 [batch], if that is a batch of texts.
        is_training: Whether it is a training batch.
        is_first_step: Whether no step has been trained before it.
        sharing: What runs have shared.

    Raises:
        UserError: For a network without layer groups, or whose features depend on the batch; and for data whose
            examples are not always the same.
    """

    def __init__(
        self,
        network: nn.Module,
        forward: Any,
        data: object,
        processes: int = 1,
        is_shared: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        if getattr(data, "is_augmented", True):
            known = "are changed at random" if hasattr(data, "is_augmented") else "are not known by their rows"
            raise UserError(
                f"model.cache_features is on, but the examples of {type(data).__name__} {known}: take data.augmentation"
                " and data.mixing away, or leave it off"
            )
        if getattr(network, "depends_on_batch", False):
            raise UserError(
                f"model.cache_features is on, but the features of {type(network).__name__} depend on the padding of the"
                " batch: leave it off"
            )
        layer_groups: LayerGroups | None = getattr(network, "layer_groups", None)
        if not layer_groups:
            raise UserError(
                f"model.cache_features needs a network with layer_groups, which {type(network).__name__} does not"
                " have: leave it off"
            )
        self.network, self.forward = network, forward
        self.rows: Tensor | None = None
        self.lengths: Tensor | None = None
        self.is_training, self.is_first_step = False, True
        self.sharing = sharing or Sharing()
        groups = resolve_layer_groups(network, layer_groups, rest="frozen")
        self._groups = [group for name, group in groups.items() if name != REST]
        self._first_use = _first_use(network, self._groups)
        self._processes, self._is_shared = processes, is_shared
        self._train_examples: int | None = getattr(data, "facts", {}).get("train_examples")
        self._most_gib: float = getattr(data, "resident_gib", 4.0)
        self._cut: NetworkCut | None = None
        self._shared: SharedFeatures | None = None
        self._checked_modes: set[bool] = set()
        self._below: dict[str, Tensor] = {}
        self._forget([])

    def logits_of(self, *inputs: Tensor) -> Tensor:
        """Computes the logits, float [batch, classes], of a batch whose rows are noted; of any other by the network.

        Raises:
            UserError: Where kept features would be wrong: they are random, or the network cannot be cut. Also where
                nothing is frozen at the first step.
        """
        cut = None if self.rows is None else self._present_cut()
        if cut is None:
            whole: Tensor = self.forward(*inputs)
            return whole
        features = self._features(cut, inputs)
        logits = cut.logits(features, inputs)
        if self.network.training not in self._checked_modes:
            self._checked_modes.add(self.network.training)
            if logits.isnan().any() and not features.isnan().any():
                mode = "training" if self.network.training else "evaluation"
                raise cut.refusal(f"in {mode} what follows needs more than the first tensor that it is given")
        return logits

    def head_and_features(self, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Tensor] | None:
        """Gives what :meth:`CachedFeatures.head_and_features` does."""
        cut = None if self.rows is None else self._present_cut()
        if cut is None:
            return None
        features = self._features(cut, inputs)
        self.rows = None
        if cut.end is None:
            return None
        self._checked_modes.add(self.network.training)  # what takes the features alone needs nothing more
        return cut.end, features.squeeze(1)

    @property
    def is_cut(self) -> bool:
        """Whether something was frozen when the last batch of known rows came."""
        return self._cut is not None

    def _present_cut(self) -> NetworkCut | None:
        """Finds where to cut, and forgets what was computed with other weights."""
        trained = [(place, name) for name, (tensor, place) in self._first_use.items() if tensor.requires_grad]
        place, name = min([(len(self._groups) - 1, ""), *trained])
        if not place:
            if self.is_first_step and not self._is_shared:
                raise UserError(
                    f"model.cache_features is on, but {name} is trained, and nothing below it is frozen: add"
                    " configs/strategies/linear_probe.yaml or gradual.yaml, or leave it off"
                )
            self._cut, self._below = None, {}
            self._forget([])
            return None
        if self._cut is None or self._cut.name != self._groups[place].name:
            self._cut = self._cut_before(place)
            self._checked_modes.clear()
            self._forget([])
        self._below = {name: tensor for name, (tensor, first) in self._first_use.items() if first < place}
        versions = [tensor._version for tensor in self._below.values()]
        if versions != self._versions:
            self._forget(versions)
        return self._cut

    def _cut_before(self, place: int) -> NetworkCut:
        below, above = (
            [module for group in groups for module in group.modules]
            for groups in (self._groups[:place], self._groups[place:])
        )
        return NetworkCut(self.network, self.forward, self._groups[place].name, below, above)

    def sums_below(self) -> list[float]:
        """Sums up each tensor below the cut: they change where others were put into its place, as by an average."""
        below = self._below.values()
        sums = [t.sum(dtype=torch.float32 if t.device.type == "mps" else torch.float64) for t in below]
        return torch.stack(sums).tolist() if sums else []

    def share(self) -> None:
        """Leaves to other runs the features that were computed since the last time."""
        if self._shared is not None:
            self._shared.write()

    def _forget(self, versions: list[int]) -> None:
        self.share()
        self._versions, self._shared = versions, None
        self._table = FeatureTable(self._most_gib * 2**30)
        self._shared_rows: set[int] = set()  # the same on all processes

    @torch.no_grad()
    @torch.inference_mode(False)  # training could not use a table that validation has made
    def _features(self, cut: NetworkCut, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self.rows is not None
        rows = self.rows.cpu()
        is_known = self._table.knows(rows)
        chosen = (~is_known).nonzero().squeeze(1)
        computed = None
        if len(chosen):
            computed = self._computed(cut, tuple(tensor[chosen.to(tensor.device)] for tensor in inputs), chosen)
        if len(chosen) == len(rows):
            assert computed is not None
            features = computed
        else:
            known = self._table.take(rows[is_known], inputs[0].shape[1] if cut.has_time else 1)
            features = known.new_empty(len(rows), *known.shape[1:])
            features[is_known.to(known.device)] = known
            if computed is not None:
                features[chosen.to(known.device)] = computed
        self._keep(cut, rows[chosen], computed, chosen)
        return features

    def _computed(self, cut: NetworkCut, inputs: tuple[Tensor, ...], chosen: Tensor) -> Tensor:
        if self.network.training not in self._checked_modes:
            self._check(cut, tuple(tensor[:_CHECKED_EXAMPLES] for tensor in inputs))
        if not self._is_shared:
            return cut.features(inputs)
        if self._shared is None:
            most_bytes = self._most_gib * 2**30
            self._shared = SharedFeatures(cut, self._below, inputs[0].device, most_bytes, self.sharing)
        with _in_evaluation(self.network):
            return self._shared.features(inputs, None if self.lengths is None else self.lengths.cpu()[chosen])

    def _keep(self, cut: NetworkCut, rows: Tensor, features: Tensor | None, chosen: Tensor) -> None:
        """Keeps features, and on several processes also what the others have computed, in the same steps on all."""
        assert self.rows is not None
        lengths = torch.ones_like(rows) if self.lengths is None or not cut.has_time else self.lengths.cpu()[chosen]
        found: list[Any] = [(rows, features, lengths)]
        # Validation deals each process the same rows in every epoch, training does not.
        if self._processes > 1 and self.is_training and len(self._shared_rows) != self._train_examples:
            mine = rows, None if features is None else features.cpu(), lengths
            found = [None] * self._processes
            torch.distributed.all_gather_object(found, mine)
            for shared_rows, _, _ in found:
                self._shared_rows.update(shared_rows.tolist())
        was_full = self._table.is_full
        for some_rows, some_features, some_lengths in found:
            if some_features is not None:
                self._table.store(some_rows, some_features.to(self.rows.device), some_lengths)
        if self._table.is_full and not was_full:
            rank_zero_warn(
                f"model.cache_features: data.resident_gib {self._most_gib} has room for the features of"
                f" {len(self._table)} examples before {cut.name}; those of others are computed each time"
            )

    def _check(self, cut: NetworkCut, inputs: tuple[Tensor, ...]) -> None:
        """Checks that features are those of evaluation, from which the network's output must follow."""
        with _in_evaluation(self.network):
            in_evaluation = cut.check(inputs, is_text=self.lengths is not None)
        if not is_close(cut.features(inputs), in_evaluation):
            raise UserError(
                "model.cache_features needs the same features in training as in evaluation: set the dropout and drop"
                f" path below {cut.name} to 0 and freeze the norm layers with ProgressiveUnfreezing, or leave it off"
            )


def _first_use(network: nn.Module, groups: Sequence[LayerGroup]) -> dict[str, tuple[Tensor, int]]:
    """Says for each parameter and buffer by name which layer group is the first that has it, or 0 for no group."""
    first: dict[int, int] = {}
    for place, group in reversed([*enumerate(groups)]):
        of_modules = [t for module in group.modules for t in (*module.parameters(False), *module.buffers(False))]
        tensors = [*group.parameters.values(), *group.frozen.values(), *of_modules]
        first.update((id(tensor), place) for tensor in tensors)
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: (tensor, first.get(id(tensor), 0)) for name, tensor in named}


@contextmanager
def _in_evaluation(network: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
