"""A classifier whose training is differentially private: DP-SGD, with the account of what it costs."""

from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_transfer.data.batches import Batch, parts
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.cached_features import CachedFeatures
from lightning_transfer.modules.classifier import Classifier, ClassifierOptions
from lightning_transfer.privacy.account import Account, require_as_saved
from lightning_transfer.privacy.conditions import check_can_be_private, check_padding
from lightning_transfer.privacy.per_example import Gradients, PerExampleGradients
from lightning_transfer.privacy.readers import close_readers, unknown_callbacks
from lightning_transfer.privacy.secret import (
    mark_of,
    new_secret,
    noise_generator,
    read_secret,
    seed_of_draws,
    write_secret,
)


class PrivateClassifier(Classifier):
    """A classifier that keeps its training examples private: the weights tell little of any one of them (DP-SGD).

    Each step draws every example by a chance of its own, computes the gradient of each alone, scales it down to
    ``clip_norm``, and adds noise to the sum. ε says how much the whole run can tell of an example, for a chance
    ``delta`` of failing: see ``docs/private.md``. It is logged as ``privacy/epsilon``, and in ``results.json``. Layers
    that are frozen cost no noise. Norm layers with running statistics use and keep those of the starting weights.
    What else would tell of single examples is switched off or refused, among it ``train/loss``. It needs
    ``data.private`` and the extra ``opacus``.

    Args:
        target_epsilon: The most that ε may be. It sets the noise by the length of the training, if no noise is given,
            and the run ends before a step that would exceed it.
        delta: The chance with which the promise may fail: below 1 divided by the number of training examples.
        noise_multiplier: Standard deviation of the noise, divided by ``clip_norm``.
        clip_norm: The norm to which the gradient of each example is scaled down, over all that trains.
        examples_at_once: Number of examples whose gradients are in memory together. The result is the same, but for
            rounding.

    Raises:
        UserError: If neither a target nor noise is given, or a value is out of range. On ``fit``, if opacus is missing,
            and for what cannot be private.

    Source:
        Abadi et al., Deep Learning with Differential Privacy, 2016.
    """

    library: ClassVar[str] = "opacus"

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        target_epsilon: float | None = None,
        delta: float = 1e-5,
        noise_multiplier: float | None = None,
        clip_norm: float = 1.0,
        examples_at_once: int = 32,
        **kwargs: Keywords[ClassifierOptions],
    ) -> None:
        super().__init__(network, num_classes, **kwargs)
        self.account = Account(target_epsilon, noise_multiplier, clip_norm, delta)
        if examples_at_once < 1:
            raise UserError(f"model.examples_at_once is {examples_at_once}: expected 1 or more")
        self.examples_at_once = examples_at_once
        self._secret = 0
        self._gradients: PerExampleGradients | None = None
        self._sums: Gradients = {}
        self._is_batch_used = False  # in its one step
        self._expected = 0.0  # examples in a batch over all processes
        self._not_in_epsilon: list[str] = []
        self._earlier: list[str] = []  # fits of this module

    @property
    def privacy(self) -> dict[str, Any] | None:
        """What a record of a run says of its privacy, in plain types; None before a fit."""
        record = self.account.record
        return None if record is None else {**record, "not_in_epsilon": self._not_in_epsilon}

    # ---- the way in -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Begins a private training with a secret of its own; a checkpoint is loaded after this.

        Raises:
            UserError: If opacus is missing, which nothing but a fit needs. Also for data, a trainer or callbacks with
                which a training cannot be private.
        """
        if stage == "fit":
            require_library(self.library, type(self).__name__)
            check_can_be_private(self.trainer, self)
            close_readers(self.trainer)
        super().setup(stage)
        if stage == "fit":
            if (earlier := self.privacy) is not None:
                self._earlier.append(f"an earlier fit of this module, with epsilon {earlier['epsilon']:.2f}")
            self.account.begin()
            self._use(new_secret(self.trainer))

    def _use(self, secret: int) -> None:
        self._secret = self.trainer.datamodule.sampling_seed = secret  # type: ignore[attr-defined]

    def fit_network_to_data(self) -> None:
        """Leaves the network as it is: what it would compute of training examples is not private."""
        if getattr(self.network, "sample_size", 0):
            rank_zero_warn(
                f"private: {type(self.network).__name__} is not fitted to training examples before the first step, and"
                " learns more slowly: start from weights (--init_from) that have it"
            )

    def on_fit_start(self) -> None:
        """Sets the noise, and says what the training promises.

        Raises:
            UserError: For a delta that promises nothing, a training without an end, and a checkpoint of another one.
        """
        super().on_fit_start()
        self._gradients = PerExampleGradients(self)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        examples, held_out = data.facts["train_examples"], data.facts["validation_examples"]
        if (tokens := getattr(data, "vocabulary_size", None)) is not None:
            check_padding(self, tokens)
        total = self.trainer.estimated_stepping_batches
        planned = int(total) if 0 <= total < float("inf") else None
        self._expected = data.sampling_rate * examples
        mechanism = self.account.plan(examples, data.sampling_rate, planned)
        write_secret(self.trainer, self._secret)  # after all checks: it replaces that of an earlier run here
        self._not_in_epsilon = [
            *([f"the {held_out} validation examples, by which checkpoints are chosen"] if held_out else []),
            "other runs on the same examples, such as those of tuning",
            *self._earlier,
            *(f"what {name} reads" for name in unknown_callbacks(self.trainer)),
        ]
        rank_zero_info(
            f"private: {self.account.forecast}delta {mechanism.delta:g}, noise multiplier"
            f" {mechanism.noise_multiplier:.3g}, each of {examples} examples in a batch with a chance of"
            f" {mechanism.sampling_rate:.3g}; not in epsilon: "
            f"{'; '.join(self._not_in_epsilon)}"
        )

    # ---- a step -----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:  # type: ignore[override]
        """Takes no step that would exceed the target, as where the trainer has a least number of steps."""
        if self.account.is_spent:
            self.trainer.should_stop = True
            return -1
        self._is_batch_used = False
        super().on_train_batch_start(batch, batch_idx)
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the sum of the clipped gradients of a batch. What it returns is always 0: a loss is not private.

        Raises:
            UserError: For a batch that is used a second time.
        """
        assert self._gradients is not None
        if self._is_batch_used:
            raise UserError(
                f"{type(self.trainer.optimizers[0]).__name__} uses a batch several times in a step, which epsilon does"
                " not count: expected an optimizer such as AdamW or SGD (PrivateClassifier)"
            )
        self._is_batch_used = True
        inputs, labels = parts(batch, self.network)
        caches = [c for c in self.trainer.callbacks if isinstance(c, CachedFeatures)]  # type: ignore[attr-defined]
        cached = caches[0].head_and_features(inputs) if caches and len(labels) else None
        head, inputs = (None, inputs) if cached is None else (cached[0], (cached[1],))
        self._sums = self._gradients.clipped_sum((*inputs, labels), self.account.clip_norm, self.examples_at_once, head)
        self.account.steps += 1
        if self.trainer.is_last_batch or self.account.is_spent:  # the accountant takes a tenth of a second
            self.log_means()
        return torch.zeros((), device=self.device, requires_grad=True)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Ends the training where another step would exceed the target; a validation follows, as at its end."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.account.ends_early:
            rank_zero_info(
                f"private: the training ends after {self.account.steps} steps, as another would exceed epsilon"
                f" {self.account.target_epsilon}"
            )
            self.trainer.should_stop = True

    @torch.no_grad()
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Adds noise to the sum over all processes, and makes the mean over the expected batch the gradient."""
        assert self._gradients is not None
        assert self.account.mechanism is not None
        processes, sums = self.trainer.world_size, self._sums
        if processes > 1:
            for total in sums.values():
                torch.distributed.all_reduce(total)
        if not sums:  # nothing trains, and nothing is told
            return
        deviation = self.account.mechanism.noise_multiplier * self.account.clip_norm
        generator = noise_generator(self._secret, self.account.steps, [*sums.values()], processes)
        for name, parameter in self._gradients.parameters.items():
            total = sums[name]
            drawn = generator.standard_normal(total.shape, np.float64 if total.dtype == torch.float64 else np.float32)
            noise = torch.from_numpy(np.asarray(drawn)).to(total.device)
            parameter.grad = (total + deviation * noise) / self._expected
        self._sums = {}

    def means_so_far(self) -> dict[str, Tensor]:
        """Computes what is logged of the training steps: ε of all until now."""
        return {"privacy/epsilon": torch.tensor(self.account.epsilon, device=self.device)}

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the account, without the secret: a checkpoint may be published."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["privacy"] = self.privacy
        if self.privacy is not None:
            checkpoint["privacy"] |= {
                "mark_of_secret": mark_of(self._secret),
                "examples_at_once": self.examples_at_once,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved account, in a fit.

        Raises:
            UserError: For a checkpoint of a training that was not private, or had other settings.
        """
        super().on_load_checkpoint(checkpoint)
        if not self.is_fitting:
            return
        if (saved := checkpoint.get("privacy")) is None:
            raise UserError(
                "the checkpoint is of a training that was not private: expected one of PrivateClassifier; start by"
                " --init_from, if its weights have never seen the private examples"
            )
        require_as_saved("examples_at_once", self.examples_at_once, saved)
        self.account.go_on(saved)
        self._use(read_secret(self.trainer, saved["mark_of_secret"]))

    def seed_of_draws(self, *place: int) -> int:
        """Makes the seed of what the network draws: a secret one, as masks in a known order would tie examples."""
        return seed_of_draws(self._secret, *place)
