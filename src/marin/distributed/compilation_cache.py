"""Compiled programs kept on disk between processes.

Compiling takes seconds to minutes, and a run that resumes, or an experiment that repeats, compiles what was compiled
before. XLA's programs are kept in the user's cache folder, one folder per CPU model and jaxlib version: machine code
made for one CPU must not meet another through a shared home. A program from the cache is the program that was
compiled, so results are equal bit for bit (a test holds that down). The price is disk space, some megabytes a model.
"""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

OFF = "off"
"""Given as the folder: compile anew in each process."""


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/marin/xla/<CPU and jaxlib>`, or below `~/.cache`."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "marin" / "xla" / f"jaxlib-{metadata.version('jaxlib')}-{_cpu_digest()}"


def use_compilation_cache(folder: str | Path | None = None) -> Path | None:
    """Let this process keep and find compiled programs in `folder`; returns it, or None for "off".

    `folder` None takes `default_cache_folder()`. Best called before the first compilation. A folder that cannot be
    made turns the cache off: it only ever saves time.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    path = default_cache_folder() if folder is None else Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if getattr(jax.config, "jax_compilation_cache_dir", None) != str(path):
        compilation_cache.reset_cache()  # jax holds on to the first folder otherwise
        jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_enable_compilation_cache", True)
    # many small programs add up: keep them all
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


def _cpu_digest() -> str:
    """Short hash of what machine code may rely on: architecture and the CPU's feature flags."""
    description = [platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        description += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:  # not Linux
        description.append(platform.processor())
    return hashlib.sha256("\n".join(description).encode()).hexdigest()[:12]
