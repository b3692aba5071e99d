"""The command line: ``lightning-transfer`` or ``python -m lightning_transfer``."""

import signal
import sys
from pathlib import Path

from lightning_transfer.cluster.launchers import end_with_parent
from lightning_transfer.cluster.signals import SIGUSR1, ends_in_one_line


def main() -> None:
    """Runs a command; a user's mistake ends in one line and exit status 2, and a signal in one line and 128 plus it."""
    if SIGUSR1 is not None:
        # It asks a training to stop. Where none runs yet, or any more, its default would kill the process.
        signal.signal(SIGUSR1, signal.SIG_IGN)
    end_with_parent()
    # Classes of the user's lie where the command runs: an installed script would not look there, as python -m does.
    sys.path.append(str(Path.cwd()))
    with ends_in_one_line(sys.argv[1:]):
        from lightning_transfer.cli.entry import main  # only now: it takes seconds

    try:
        main()
    finally:
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would end in a traceback while it ends


if __name__ == "__main__":
    main()
