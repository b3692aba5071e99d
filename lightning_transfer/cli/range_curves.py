"""The command ``lr-find``: a range test for each phase of the schedule, as a table and as a plot."""

from collections.abc import Container, Sequence
from pathlib import Path

from lightning_transfer.errors import UserError
from lightning_transfer.files import replacing
from lightning_transfer.transfer.range_test import Curve


def write_curves(curves: Sequence[Curve], folder: Path, arguments: Container[str]) -> str:
    """Writes the curves as a picture and for TensorBoard.

    Args:
        curves: What was measured.
        folder: Where ``lr_find.png`` and the event file go.
        arguments: Names of the module's arguments, by one of which it takes a learning rate.

    Returns:
        The table for the terminal, with the suggestion for the whole training.

    Raises:
        UserError: Where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("lr-find draws with matplotlib: pip install 'lightning-transfer[study]'") from None
    from torch.utils.tensorboard import SummaryWriter

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        [line] = axes.plot(curve.learning_rates, curve.losses, label=curve.name)
        axes.axvline(curve.suggestion, color=line.get_color(), linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.legend(frameon=False, fontsize="small")
    with replacing(folder / "lr_find.png") as partial:
        figure.savefig(partial, dpi=150, format="png")
    with SummaryWriter(str(folder)) as writer:
        writer.add_figure("lr_find", figure)
    return _table(curves, folder, arguments)


def _table(curves: Sequence[Curve], folder: Path, arguments: Container[str]) -> str:
    width = max(len(curve.name) for curve in curves)
    lines = [f"{curve.name:<{width}}  {curve.suggestion:.3g}" for curve in curves]
    # One learning rate serves all phases: what suits the most sensitive one.
    suggestion = min(curve.suggestion for curve in curves)
    option = next((name for name in ("optimizer", "lr", "learning_rate") if name in arguments), None)
    flags = {"--model.init_args.optimizer.init_args.lr" if option == "optimizer" else f"--model.{option}": suggestion}
    if (factor := curves[0].sgd_lr_factor) is not None:
        flags["--model.init_args.optimizer.init_args.sgd_lr"] = factor * suggestion
    values = [f"{flag} {value:.3g}" for flag, value in flags.items()] if option else [f"{suggestion:.3g}"]
    return "\n".join([*lines, f"suggested: {' '.join(values)}", f"plot: {folder / 'lr_find.png'}"])
