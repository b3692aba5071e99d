"""The command line: ``lightning-transfer`` or ``python -m lightning_transfer``."""


def main() -> None:
    """Runs a command; a user's mistake ends in one line and exit status 2."""
    from lightning_transfer.cli import main

    main()


if __name__ == "__main__":
    main()
