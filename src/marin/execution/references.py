"""Functions and classes by name: the same name however their file was started."""

import functools
import os
import sys
import types
from typing import Any


def function_reference(fn: Any) -> str:
    """'module:qualname' of a module-level function or class, the same however its file was started.

    A script run as `__main__` goes by its path below the nearest folder with a pyproject.toml or .git, so that
    `python experiments/x.py`, `python -m x` in that folder and `import experiments.x` mean one function. A script
    outside any project goes by its absolute path: two of one file name are two, and one that is moved is another.
    Raises ValueError with the reason for anything that is not found again by its name.
    """
    if isinstance(fn, types.FunctionType):
        if fn.__name__ == "<lambda>":
            raise ValueError("a lambda has no name to find it by; define a function at module level")
        if fn.__closure__:
            raise ValueError(
                f"the function {fn.__qualname__} captures {', '.join(fn.__code__.co_freevars)}, which its name does "
                "not show; define it at module level and pass what it captures in the config"
            )
        if "<locals>" in fn.__qualname__:
            raise ValueError(
                f"the local function {fn.__qualname__} has no name to find it by; define it at module level"
            )
    elif isinstance(fn, type):
        if "<locals>" in fn.__qualname__:
            raise ValueError(f"the local class {fn.__qualname__} has no name to find it by; define it at module level")
    elif isinstance(fn, types.MethodDescriptorType | types.WrapperDescriptorType):
        return f"{fn.__objclass__.__module__}:{fn.__qualname__}"
    elif isinstance(fn, types.MethodType):
        if not isinstance(fn.__self__, type):
            raise ValueError(f"{fn.__qualname__} is a method of a value; use a function at module level")
        return f"{_module_name(fn.__self__)}:{fn.__self__.__qualname__}.{fn.__name__}"
    elif not isinstance(fn, types.BuiltinFunctionType):
        raise ValueError(f"{type(fn).__qualname__} is not a function; use one defined at module level")
    return f"{_module_name(fn)}:{fn.__qualname__}"


def _module_name(obj: Any) -> str:
    module = obj.__module__
    if module is None:
        return "builtins"
    if module not in ("__main__", "__mp_main__"):
        return module
    scope = getattr(obj, "__globals__", None) or vars(sys.modules[module])
    spec = scope.get("__spec__")
    file = scope.get("__file__")
    name = spec.name if spec is not None else "__main__"
    # `python -m x` of a file that lies about is named by its folder too; in a package or installed, by itself
    if name not in ("__main__", "__mp_main__") and (file is None or "." in name or "site-packages" in file):
        return name
    return "__main__" if file is None else _script_module(os.path.abspath(file))


@functools.cache
def _script_module(file: str) -> str:
    here, base = os.path.split(os.path.splitext(file)[0])
    names = [base]
    while not any(os.path.exists(os.path.join(here, mark)) for mark in ("pyproject.toml", ".git")):
        here, name = os.path.split(here)
        if not name:
            return os.path.splitext(file)[0]
        names.insert(0, name)
    return ".".join(names[1:] if names[0] == "src" and len(names) > 1 else names)
