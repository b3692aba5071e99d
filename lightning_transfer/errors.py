"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """A mistake in the input, said in one line: the value, what was expected and the way out.

    The command line prints the line and exits with status 2; library users see an ordinary ``ValueError``.
    """
