"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a setting, an option.

    The message says what was expected, what came and what to do. The command line prints it without a stack trace and
    exits with `exit_code`.
    """

    exit_code = 2
