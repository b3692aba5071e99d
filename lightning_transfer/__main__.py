"""The command line: ``lightning-transfer`` or ``python -m lightning_transfer``."""

import signal
import sys
from pathlib import Path

from lightning_transfer.cluster.launchers import end_with_parent
from lightning_transfer.cluster.signals import SIGUSR1


def main() -> None:
    """Runs a command; a user's mistake ends in one line and exit status 2."""
    if SIGUSR1 is not None:
        # It asks a training to stop. Where none runs yet, or any more, its default would kill the process.
        signal.signal(SIGUSR1, signal.SIG_IGN)
    end_with_parent()
    # Classes of the user's lie where the command runs: an installed script would not look there, as python -m does.
    sys.path.append(str(Path.cwd()))
    from lightning_transfer.cli.entry import main  # only now: it takes seconds

    main()


if __name__ == "__main__":
    main()
