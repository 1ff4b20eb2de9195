"""Errors that say all there is to say: commands print them in one line, without a traceback."""

from marin.execution.adoption import AdoptionError, OutputExistsError
from marin.execution.canonical import UnversionableError
from marin.execution.catalog import AddressError, NoStoreError
from marin.execution.executor import RefusedError
from marin.execution.flags import ClusterNameError
from marin.execution.gc import UnknownUseError
from marin.execution.graph import GraphError
from marin.execution.launcher import ImpossibleRequest
from marin.execution.plan import DigestCollision, SelectionError
from marin.execution.status import RegisterError
from marin.execution.store import PrefixError


def mistake(error: BaseException) -> tuple[str, int] | None:
    """(what to print, exit code) for an error that says all there is to say; None for any other.

    2: what was asked for makes no sense. 3: it makes sense and is refused, for the sake of what is in the store.
    """
    if isinstance(error, DigestCollision | RegisterError | RefusedError | UnknownUseError | OutputExistsError):
        return str(error), 3
    senseless = (
        UnversionableError,
        GraphError,
        PrefixError,
        SelectionError,
        NoStoreError,
        AddressError,
        ImpossibleRequest,
        ClusterNameError,
        AdoptionError,
    )
    return (str(error), 2) if isinstance(error, senseless) else None
