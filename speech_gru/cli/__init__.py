"""The command line: one module a verb; this one binds them and turns failures into exit codes.

Exit codes: 0 done; 1 a check failed (an artefact differs from its model, a training diverges); 2 wrong use: an option,
a config, an input; 3 done, but some clips were set aside; 130 interrupted, 143 told to stop (SIGTERM).

Only light modules are imported here: `speech-gru --help` must not wait for TensorFlow.
"""

import os
import signal
import sys
from contextlib import suppress

import typer

from data_pipeline.errors import Interrupted, UserError
from speech_gru.cli import (
    benchmark,
    compose,
    download,
    evaluate,
    export,
    inspect,
    listen,
    prepare,
    recognize,
    summary,
    sweep,
    synth,
    train,
)

app = typer.Typer(
    name="speech-gru",
    help="Train a recogniser of spoken commands on your own words, and run it on the device that listens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (download, synth, prepare, compose, train, sweep, evaluate, export, inspect, recognize, listen, summary):
    verb = module.__name__.rpartition(".")[2]
    app.command(verb, no_args_is_help=module is not listen)(getattr(module, verb))
app.add_typer(benchmark.benchmark, name="benchmark")

_UsageError = typer.BadParameter.__base__
"""What Typer raises for a wrong command line: click's class, or its own copy of it, by Typer's version."""


def main() -> None:
    """Runs the command line and exits; a user's mistake is one message on standard error, never a stack trace."""
    # Where there is no GPU, TensorFlow calls that an error; true ones reach Python as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress(AttributeError):  # standard output may be closed
        sys.stdout.reconfigure(errors="backslashreplace")  # not every file's name can be encoded
    said = "interrupted; what was finished is kept, nothing is half-written"
    try:
        code = _run()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Interrupted as error:
        code, said = 128 + error.signal, str(error)
    if code > 128:
        print(f"\nspeech-gru: {said}", file=sys.stderr)
    sys.exit(code)


def _run() -> int:
    try:
        code = app(prog_name="speech-gru", standalone_mode=False)
        print(end="", flush=True)  # a reader that has gone away is noticed here at the latest
        return code or 0
    except _UsageError as error:
        error.show()
    except ModuleNotFoundError as error:
        advice = f'{error.name} isn\'t installed; this command needs the extra [train]: pip install ".[train]"'
        print(f"speech-gru: {advice}", file=sys.stderr)
    except (SystemExit, BrokenPipeError):  # Typer and rich answer a closed pipe with SystemExit; `| head` is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (UserError, OSError) as error:
        print(f"speech-gru: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 2
