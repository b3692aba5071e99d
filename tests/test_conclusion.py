"""The sentence that says what runs of one task have shown, and how surely."""

import pytest

from lightning_transfer.report.conclusion import conclusion


@pytest.mark.parametrize(
    ("accuracies", "metric", "sentence"),
    [
        (
            {"scratch": 0.35, "gradual": 0.718},
            "accuracy",
            "gradual beats scratch by 36.8 ± 3.0 points of accuracy on 1,800 test examples (95 % interval over the"
            " examples; n=1 run each)",
        ),
        # Of three, the best is the best of two rivals, so the interval is wider: 2.24 deviations and not 1.96.
        ({"scratch": 0.7, "gradual": 0.6, "full": 0.5}, "accuracy", "scratch beats gradual by 10.0 ± 3.5 points of"),
        ({"scratch": 0.6, "gradual": 0.7, "full": 0.5}, "accuracy", "gradual beats scratch by 10.0 ± 3.5 points of"),
        (
            {"scratch": 0.6, "gradual": 0.62},
            "accuracy",
            "No difference shown between gradual and scratch: 2.0 ± 3.2 points of accuracy on 1,800 test examples",
        ),
        ({"scratch": 0.6, "gradual": 0.6}, "accuracy", "scratch and gradual are equal on 1,800 test examples (n=1 run"),
        (
            {"scratch": 1.25, "gradual": 0.5},
            "loss",
            "gradual beats scratch by 0.75 in loss on 1,800 test examples (n=1 run each)",
        ),
        (
            {"scratch": 0.5},
            "accuracy",
            "scratch reaches 50.0 % test accuracy (95 % interval 47.7 to 52.3 over 1,800 test examples; n=1 run)",
        ),
        ({"scratch": 3.5}, "perplexity", "scratch reaches 3.5 test perplexity (n=1 run)"),
        ({}, "accuracy", ""),
    ],
)
def test_sentence_says_which_strategy_is_best_and_by_how_much(
    accuracies: dict[str, float], metric: str, sentence: str
) -> None:
    data = {"test_examples": 1800}
    records = {name: [{"test": {f"test/{metric}": value}, "data": data}] for name, value in accuracies.items()}
    found = conclusion(records, metric, metric == "accuracy", "scratch")
    assert found.startswith(sentence)
    assert bool(found) == bool(sentence)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (
            [0.40, 0.43, 0.46],
            "full beats scratch, its closest rival, by 20.0 ± 2.5 points of accuracy (95 % interval over",
        ),
        ([0.40, 0.65, 0.70], "No difference shown between full and scratch: full leads scratch by 4.7 ± "),
        ([0.40], "No difference shown between full and scratch: full leads scratch by 20.0 points of accuracy (n=1 "),
    ],
)
def test_sentence_compares_seeds_by_pairs(others: list[float], sentence: str) -> None:
    scores = {"full": [0.60, 0.64, 0.65], "scratch": others}
    records = {
        name: [{"seed": seed, "test": {"test/accuracy": value}} for seed, value in enumerate(values)]
        for name, values in scores.items()
    }
    assert conclusion(records, "accuracy", True).startswith(sentence)


def test_strategies_without_a_common_seed_are_not_compared() -> None:
    records = {name: [{"seed": seed, "test": {"test/accuracy": level}} for seed in seeds]
               for name, level, seeds in (("a", 0.9, (0, 1)), ("b", 0.1, (2, 3)))}  # fmt: skip
    expected = "No difference shown: a has the best mean, but shares no seed with b"
    assert conclusion(records, "accuracy", True) == expected


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ([0.6, 0.62, 0.64], "95 % interval 57.0 to 67.0 over n=3 seeds"),
        ([0.6, 1.0], "95 % interval 0.0 to 100.0 over n=2"),
    ],
)
def test_interval_over_seeds_of_one_strategy_stays_within_what_is_possible(values: list[float], interval: str) -> None:
    records = {"full": [{"seed": seed, "test": {"test/accuracy": value}} for seed, value in enumerate(values)]}
    sentence = conclusion(records, "accuracy", True)
    assert sentence.startswith(f"full reaches {100 * sum(values) / len(values):.1f} % test accuracy ({interval}")
