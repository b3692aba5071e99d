"""What the command line takes beside a model, data and a trainer."""

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from lightning_transfer.dashboards.settings import Dashboards
from lightning_transfer.run.best_checkpoint import BestCheckpoint


def add_experiment_arguments(parser: LightningArgumentParser) -> None:
    """Adds where a run is written, where its weights come from, and what is shown of it.

    Args:
        parser: That of one command.
    """
    parser.add_argument("--experiment", type=str, default="default", help="Name of the folder under logs.")
    parser.add_argument(
        "--version", type=str | None, help="Name of the run's folder; version_0, version_1, ... if not given."
    )
    parser.add_argument("--logs", type=str, default="logs", help="Folder of all experiments.")
    parser.add_argument(
        "--loggers", type=list[Logger], default=[], help="Loggers of fit beside TensorBoard: --loggers+ WandbLogger."
    )
    parser.add_argument(
        "--test_after_fit", type=bool, default=False, help="Whether fit ends by testing the best checkpoint."
    )
    parser.add_argument(
        "--init_from",
        type=str | None,
        help="Starting weights of fit: a checkpoint or state dict (.ckpt, .pt, .safetensors), torchvision weights"
        " by name (ResNet18_Weights.IMAGENET1K_V1), or a file on the Hub (hf://owner/repository/file). Of a file with"
        " several networks the name of one follows: last.pt::teacher.",
    )
    parser.add_argument(
        "--init_allow",
        type=list[str],
        default=[],
        help="Glob patterns of tensors that may differ from the starting weights; those of the head always may.",
    )
    parser.add_argument("--output", type=str, default="predictions.jsonl", help="File that predict writes.")
    parser.add_argument("--dashboards", type=Dashboards | None, default=Dashboards(), help="What is shown.")
    parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
    parser.set_defaults({"model": {"class_path": "lightning_transfer.Classifier"}})
