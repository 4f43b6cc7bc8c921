"""The exceptions that the command line turns into a message and an exit code."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a setting, an option.

    The message says what was expected, what came and what to do. The command line prints it without a stack trace and
    exits with `exit_code`.
    """

    exit_code = 2


class Interrupted(BaseException):
    """A signal ended work that the same command goes on with; the message says from where.

    No KeyboardInterrupt: Typer would make exit code 130 of that, whatever the signal, and drop the message.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number
