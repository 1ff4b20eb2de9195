"""Functions compiled by numba and kept on disk, so that a process begins with reading them.

Beside numba's own cache: what is kept is found by the text of the module and of the kernels that it imports, since a
compiled function has in it the functions that it calls and the constants of other modules; and every checkout with the
same text shares it. A kept function is loaded without numba's tables of what could be compiled and without the
extensions that other packages register there, which take most of a second to import; they come with the first function
that has to be compiled. The price is the use of classes that numba does not document.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.runtime import rtsys

_KEPT_DAYS = 30  # what nobody has compiled into or begun to use for longer is removed
_IMPORT = re.compile(r"^from marin\.processing\.kernels\.(\w+) import", re.MULTILINE)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call with arguments of these types, or read it from the disk."""
    dispatcher: Any = numba.njit(nogil=True)(function)
    folder = _folder(function.__module__.rpartition(".")[2])
    if folder is not None:
        dispatcher._cache = _Cache(function)
        dispatcher._compilation_chain_init_hook = _nothing  # extensions are of no use to kernels
    return dispatcher


def inner(function: Callable[..., Any]) -> Any:
    """A function that only compiled ones call, and that becomes a part of them: not kept, not for Python to call."""
    decorate: Any = numba.njit
    return decorate(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def _nothing() -> None:
    pass


def _sources(module: str, found: dict[str, bytes]) -> dict[str, bytes]:
    """The text of a module of kernels and of those that it imports, by name."""
    if module not in found:
        found[module] = Path(__file__).with_name(f"{module}.py").read_bytes()
        for name in _IMPORT.findall(found[module].decode()):
            _sources(name, found)
    return found


@functools.cache
def _folder(module: str) -> Path | None:
    """Where the compiled functions of a module are, in $NUMBA_CACHE_DIR, $XDG_CACHE_HOME or ~/.cache.

    None where nothing can be kept.
    """
    identity = (numba.__version__, sys.version, sorted(_sources(module, {}).items()))
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    try:
        base = Path(os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "marin" / "kernels" / f"{module}-{digest}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            _remove_old(folder.parent)
        with tempfile.TemporaryFile(dir=folder):
            os.utime(folder)
    except (OSError, RuntimeError):  # read-only, or no home
        return None
    return folder


def _remove_old(kept: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in kept.iterdir():
            if folder.stat().st_mtime < time.time() - _KEPT_DAYS * 24 * 3600:
                shutil.rmtree(folder, ignore_errors=True)


class _Locator(_CacheLocator):
    def __init__(self, function: Callable[..., Any]):
        self._function = function

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls(py_func)

    def ensure_cache_path(self) -> None:
        os.makedirs(self.get_cache_path(), exist_ok=True)

    def get_cache_path(self) -> str:
        return str(_folder(self._function.__module__.rpartition(".")[2]))

    def get_source_stamp(self) -> str:
        return ""  # the folder says it

    def get_disambiguator(self) -> str:
        return str(self._function.__code__.co_firstlineno)


class _Impl(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _Cache(FunctionCache):
    _impl_class = _Impl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The function, if it is kept: all that code which is compiled already needs is numba's runtime."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)
