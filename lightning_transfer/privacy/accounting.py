"""Says what a private training costs: ε for a δ, by the accountant of Opacus."""

import bisect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache

from lightning_transfer.errors import UserError

# Accountants of Opacus: Mironov, Rényi Differential Privacy, 2017; Gopi, Lee and Wutschitz, Numerical Composition of
# Differential Privacy, 2021. Both give upper bounds, so the lower one counts. That is nearly always the second's. Where
# noise hides next to nothing it needs many GB, or gives no number, and is not asked.
_TIGHT, _ROBUST = "prv", "rdp"
_NEXT_TO_NOTHING = 50.0  # ε
_MOST_NOISE = 1e4


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
        return self._spent(steps)[0] if steps else 0.0

    def accountant(self, steps: int) -> str:
        """Names Opacus's accountant that says so: prv, or rdp where ε is very small or very large."""
        return self._spent(steps)[1] if steps else _TIGHT

    def _spent(self, steps: int) -> tuple[float, str]:
        return _spent(self.noise_multiplier, self.sampling_rate, self.delta, steps)

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
    """Finds the least noise, to one part in a thousand, with which ε is at most the target after all steps.

    Raises:
        UserError: If no noise is enough.
    """

    def is_enough(noise: float) -> bool:
        return Mechanism(noise, sampling_rate, delta).epsilon(steps) <= target_epsilon

    if not is_enough(_MOST_NOISE):
        raise UserError(
            f"model.target_epsilon is {target_epsilon}: expected more, as no noise is enough for {steps} steps with"
            f" delta {delta}"
        )
    low, high = 0.0, 1.0
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > high / 1000:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return Mechanism(high, sampling_rate, delta)


@lru_cache(maxsize=256)
def _spent(noise_multiplier: float, sampling_rate: float, delta: float, steps: int) -> tuple[float, str]:
    from opacus.accountants import create_accountant

    def by(name: str) -> float:
        accountant = create_accountant(name)
        accountant.history = [(noise_multiplier, sampling_rate, steps)]
        with _quiet():
            return float(accountant.get_epsilon(delta=delta))

    found = [(by(_ROBUST), _ROBUST)]
    if found[0][0] <= _NEXT_TO_NOTHING:
        with suppress(ValueError):  # a delta that is too small for its arithmetic
            found.append((by(_TIGHT), _TIGHT))
    return min(found)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orders of the Rényi divergence, and of deprecations in Opacus itself
        yield
