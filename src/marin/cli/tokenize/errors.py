"""What the stage's own errors become on the command line: one line, and the exit code that belongs to it."""

import contextlib
from collections.abc import Iterator

from marin.cli.output import UsageError


class FailedError(SystemExit):
    """Work that was begun and failed; the exit code is 1."""

    def __init__(self) -> None:
        super().__init__(1)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """ValueError and FileNotFoundError are the caller's (exit code 2), RuntimeError tells of work that failed (1)."""
    from marin.cli.output import error_line

    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    except RuntimeError as error:
        error_line(str(error))
        raise FailedError() from error
