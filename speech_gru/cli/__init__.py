"""The command line: one module a verb; this one binds them and turns failures into exit codes.

Exit codes: 0 done; 1 a check failed (an artefact differs from its model, say); 2 wrong use: an option, a config, an
input; 3 done, but some clips were set aside; 130 interrupted.

Only light modules are imported here: `speech-gru --help` must not wait for TensorFlow.
"""

import os
import sys

import click
import typer

from data_pipeline.errors import UserError
from speech_gru.cli import download, evaluate, export, prepare, recognize, summary, synth, train

app = typer.Typer(
    name="speech-gru",
    help="Train a recogniser of spoken commands on your own words, and run it on the device that listens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (download, synth, prepare, train, evaluate, export, recognize, summary):
    verb = module.__name__.rpartition(".")[2]
    app.command(verb, no_args_is_help=True)(getattr(module, verb))


def main() -> None:
    """Runs the command line and exits; a user's mistake is one message on standard error, never a stack trace."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        code = app(standalone_mode=False)
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"speech-gru: {message}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        print("\nspeech-gru: interrupted; what was finished is kept, nothing is half-written", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
