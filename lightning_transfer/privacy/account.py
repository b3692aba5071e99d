"""The account of a private training: how many steps it has taken, what they cost, and how many more it may take."""

import math
from typing import Any

from lightning_transfer.errors import UserError
from lightning_transfer.privacy.accounting import Mechanism, calibrated


class Account:
    """Counts the steps of a private training.

    Args:
        target_epsilon: The most that ε may be; None where the noise alone bounds it.
        noise_multiplier: Standard deviation of the noise, divided by ``clip_norm``; None to choose it by the target.
        clip_norm: The norm to which the gradient of each example is scaled down.
        delta: The chance with which the promise may fail.

    Attributes:
        steps: The steps so far.
        mechanism: The noise and the chance of each example; None before the length of the training is known.

    Raises:
        UserError: If neither a target nor noise is given, or a value is out of range.
    """

    def __init__(
        self, target_epsilon: float | None, noise_multiplier: float | None, clip_norm: float, delta: float
    ) -> None:
        if target_epsilon is None and noise_multiplier is None:
            raise UserError("model.target_epsilon is null: expected a number such as 3, or model.noise_multiplier")
        numbers = {"target_epsilon": target_epsilon, "noise_multiplier": noise_multiplier, "clip_norm": clip_norm}
        for name, value in numbers.items():
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"model.{name} is {value}: expected a number above 0")
        if not 0 < delta < 1:
            raise UserError(f"model.delta is {delta}: expected a chance between 0 and 1, such as 1e-5")
        self.target_epsilon, self.noise_multiplier = target_epsilon, noise_multiplier
        self.clip_norm, self.delta = clip_norm, delta
        self.steps = 0
        self.mechanism: Mechanism | None = None
        self._planned: int | None = None  # steps of the whole training
        self._most_steps: float = math.inf  # that the target allows

    @property
    def epsilon(self) -> float:
        """The ε of all steps so far."""
        assert self.mechanism is not None
        return self.mechanism.epsilon(self.steps)

    @property
    def is_spent(self) -> bool:
        """Whether another step would exceed the target."""
        return self.steps >= self._most_steps

    @property
    def ends_early(self) -> bool:
        """Whether the target ends the training here, before the end that was planned."""
        return self.is_spent and self.steps < (self._planned or math.inf)

    @property
    def forecast(self) -> str:
        """What the whole training is to cost, in words that others follow; empty where it has no end."""
        planned, most = self._planned or math.inf, self._most_steps
        if (last := min(planned, most)) == math.inf:
            return ""
        assert self.mechanism is not None
        steps = f"all {last} steps" if planned <= most else f"{last} steps, which are all that the target allows"
        return f"epsilon {self.mechanism.epsilon(int(last)):.2f} after {steps}, "

    @property
    def record(self) -> dict[str, Any] | None:
        """What is recorded of a training, in plain types; None before its length is known."""
        if self.mechanism is None:
            return None
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "target_epsilon": self.target_epsilon,
            "steps": self.steps,
            "noise_multiplier": self.mechanism.noise_multiplier,
            "sampling_rate": self.mechanism.sampling_rate,
            "clip_norm": self.clip_norm,
            "accountant": self.mechanism.accountant(self.steps),
        }

    def begin(self) -> None:
        """Begins the account of a new training."""
        self.steps, self.mechanism = 0, None

    def go_on(self, saved: dict[str, Any]) -> None:
        """Goes on with the account of a checkpoint, which is a ``record``.

        Raises:
            UserError: If it was kept with other settings.
        """
        given = {"delta": self.delta, "clip_norm": self.clip_norm}
        if self.noise_multiplier is not None:
            given["noise_multiplier"] = self.noise_multiplier
        for name, value in given.items():
            require_as_saved(name, value, saved)
        self.steps = saved["steps"]
        self.mechanism = Mechanism(saved["noise_multiplier"], saved["sampling_rate"], saved["delta"])

    def plan(self, examples: int, sampling_rate: float, steps: int | None) -> Mechanism:
        """Sets the noise of a training, unless a checkpoint has it, and how many steps it may take.

        Args:
            examples: Number of training examples.
            sampling_rate: The chance of each to be in a batch.
            steps: Steps of the whole training; None where it has no end.

        Raises:
            UserError: For a delta that promises nothing, a training without an end or other data than the checkpoint's,
                and where the first step costs more than the target.
        """
        if self.delta * examples >= 1:
            raise UserError(
                f"model.delta is {self.delta}: expected below 1 / {examples}, as a higher one would allow to publish an"
                " example"
            )
        if self.mechanism is None:
            self.mechanism = self._chosen(sampling_rate, steps)
        elif self.mechanism.sampling_rate != sampling_rate:
            raise UserError(
                f"data.batch_size of {examples} training examples is a chance of {sampling_rate:.6g} for each, and the"
                f" checkpoint's is {self.mechanism.sampling_rate:.6g}: go on with the data that the run began with"
            )
        self._planned = steps
        if self.target_epsilon is not None and self.epsilon > self.target_epsilon:
            raise UserError(
                f"model.target_epsilon is {self.target_epsilon}: expected {self.epsilon:.3g} or more, which the"
                f" {self.steps} steps of the checkpoint have cost"
            )
        if self.target_epsilon is not None:
            self._most_steps = self.mechanism.steps_within(self.target_epsilon, steps)
            if not self._most_steps:
                raise UserError(
                    f"model.target_epsilon is {self.target_epsilon}: expected {self.mechanism.epsilon(1):.3g} or more,"
                    " which the first step costs, or more model.noise_multiplier"
                )
        return self.mechanism

    def _chosen(self, sampling_rate: float, steps: int | None) -> Mechanism:
        if self.noise_multiplier is not None:
            return Mechanism(self.noise_multiplier, sampling_rate, self.delta)
        assert self.target_epsilon is not None
        if steps is None:
            raise UserError(
                f"model.target_epsilon is {self.target_epsilon}: expected a training of known length, set"
                " trainer.max_epochs or trainer.max_steps, or give model.noise_multiplier"
            )
        return calibrated(self.target_epsilon, sampling_rate, self.delta, max(1, steps))


def require_as_saved(name: str, value: float, saved: dict[str, Any]) -> None:
    """Refuses a setting of a private training that is another in its checkpoint.

    Raises:
        UserError: If it is.
    """
    if saved[name] != value:
        raise UserError(
            f"model.{name} is {value}, and the checkpoint's {saved[name]}: go on with that, or start by --init_from,"
            " which adds a whole epsilon"
        )
