"""Says what a private training costs: ε for a δ, by the accountant of Opacus."""

import bisect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from lightning_transfer.errors import UserError

ACCOUNTANT = "prv"  # the tightest one of Opacus: Gopi, Lee and Wutschitz, Numerical Composition of Differential Privacy


@dataclass(frozen=True)
class Mechanism:
    """The steps of a private training: Gaussian noise on sums over Poisson samples.

    Args:
        noise_multiplier: Standard deviation of the noise, divided by the norm to which gradients are clipped.
        sampling_rate: Chance of an example to be in a batch, above 0 and at most 1.
        delta: Chance with which the promise may fail.
    """

    noise_multiplier: float
    sampling_rate: float
    delta: float

    def epsilon(self, steps: int) -> float:
        """Computes ε after a number of steps; 0 before the first."""
        return _epsilon(self.noise_multiplier, self.sampling_rate, self.delta, steps) if steps else 0.0

    def steps_within(self, target_epsilon: float, planned: int | None = None) -> int:
        """Counts the steps after which ε is at most the target.

        Args:
            target_epsilon: The most that ε may be.
            planned: More steps than these are not asked for; None where a training has no end.
        """
        if planned is not None and self.epsilon(planned) <= target_epsilon:
            return planned
        if planned is None:
            planned = 1
            while self.epsilon(planned) <= target_epsilon:
                planned *= 2
        return bisect.bisect_right(range(1, planned), target_epsilon, key=self.epsilon)


def calibrated(target_epsilon: float, sampling_rate: float, delta: float, steps: int) -> Mechanism:
    """Finds the least noise with which ε is at most the target after all steps.

    Raises:
        UserError: If no noise is enough.
    """
    from opacus.accountants.utils import get_noise_multiplier

    with _quiet():
        try:
            noise: float = get_noise_multiplier(
                target_epsilon=target_epsilon,
                target_delta=delta,
                sample_rate=sampling_rate,
                steps=steps,
                accountant=ACCOUNTANT,
                epsilon_tolerance=min(0.01, target_epsilon / 100),
            )
        except ValueError as error:
            raise UserError(
                f"model.target_epsilon is {target_epsilon}: expected more, as no noise is enough for {steps} steps with"
                f" delta {delta} ({error})"
            ) from error
    return Mechanism(noise, sampling_rate, delta)


@lru_cache(maxsize=256)
def _epsilon(noise_multiplier: float, sampling_rate: float, delta: float, steps: int) -> float:
    from opacus.accountants import create_accountant

    accountant = create_accountant(ACCOUNTANT)
    accountant.history = [(noise_multiplier, sampling_rate, steps)]
    with _quiet():
        return float(accountant.get_epsilon(delta=delta))


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orders of the Rényi divergence, and of deprecations in Opacus itself
        yield
