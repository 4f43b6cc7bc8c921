"""Work in a process of its own: what crashes there, a converter or a runtime, doesn't take the export with it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from data_pipeline.errors import UserError
from export.errors import ExportError

Result = TypeVar("Result")


def in_child(function: Callable[..., Result], *arguments) -> Result:
    """What `function`, of a module's top level, returns. It must be picklable, as its arguments must.

    Raises:
        ExportError: the process died (a crash in native code, or the system was out of memory), or `function` raised
            something else than one of the two below.
        UserError, OSError, ModuleNotFoundError: as `function` raises them.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise ExportError("its process died: a crash in native code, or no memory was left") from error
        except (ExportError, UserError, OSError, ModuleNotFoundError):
            raise
        except Exception as error:  # of a library that it calls, which may raise anything
            raise ExportError(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error
