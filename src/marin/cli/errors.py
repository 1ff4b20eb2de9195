"""What a stage's own errors become on the command line: one line, and the exit code that belongs to it."""

import contextlib
from collections.abc import Iterator

from marin.cli.output import RefusedError, UsageError, error_line


class FailedError(SystemExit):
    """Work that was begun and failed; the exit code is 1."""

    def __init__(self) -> None:
        super().__init__(1)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """The same exit code for the same fault, whichever command meets it.

    1: the work failed, for its input is damaged, has too many bad rows or changed meanwhile, a download broke off, a
    store did not answer, or shards were not made. 2: what was asked for makes no sense, or is not there (any other
    ValueError, FileNotFoundError). 3: it would remove more than is allowed.
    """
    try:
        yield
    except (UsageError, RefusedError):
        raise
    except (ValueError, OSError, RuntimeError) as error:
        from marin.data.store import CorruptStoreError
        from marin.download.http import DownloadError
        from marin.io.objects import RemoteError
        from marin.processing.dedup.report import TooMuchRemovedError
        from marin.processing.document import BadInputError

        if isinstance(error, TooMuchRemovedError):
            raise RefusedError(str(error)) from error
        # What a store refuses for good (its name, the keys) is of what was asked for; what may pass is not.
        passes = isinstance(error, RemoteError) and error.may_pass
        if passes or isinstance(error, BadInputError | CorruptStoreError | DownloadError | RuntimeError):
            error_line(str(error))
            raise FailedError() from error
        if isinstance(error, ValueError | FileNotFoundError):
            raise UsageError(str(error)) from error
        raise
