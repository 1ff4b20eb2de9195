"""A step: a name, a function and a config. Everything here is inert.

Building a step runs nothing, reads no environment and knows no prefix, so steps may live at module level and be shared
between experiments; where they write is decided by the executor that runs them. A config refers to other steps by
`output_path_of(step)` and to its own folder by `this_output_path()`; both are placeholders until the step runs. The
cost: a config field that will hold a path holds an `InputName` or `OutputName` before that, so a `__post_init__` that
inspects paths must let them pass.
"""

import dataclasses
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from marin.execution.artifact import Artifact, check_output_type

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_NAME_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_CHOICES = (
    ("code_policy", ("warn", "version", "ignore")),
    ("versioning", ("all", "marked")),
    ("publish", ("attempt", "inplace")),
)
_MAX_NAME_PART = 200  # file systems allow 255 bytes; the digest and temporary suffixes need room


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ExecutorStep(Generic[T_co]):
    """One unit of work: `fn(config)`, whose identity is what it is, not where or when it runs.

    Two step objects are equal only if they are the same object; two steps *mean* the same when their digests agree
    (see `marin.execution.graph`), and are then run once.

        tokens = ExecutorStep(
            name="tokens/wiki",
            fn=tokenize,
            config=TokenizeConfig(input_path=output_path_of(wiki, "train"), output_path=this_output_path()),
        )
    """

    name: str  # folders and file name characters, e.g. "tokens/wiki": part of the identity and of the output path
    fn: Callable[[Any], Any] | str  # a module-level function of the config, or "module:function", imported when it runs
    config: Any  # any value the canonical encoder knows, usually a frozen dataclass: identity unless marked otherwise
    output_type: type[T_co] = cast(
        "type[T_co]", Artifact
    )  # what `load` gives: see marin.execution.artifact; not identity
    description: str | None = None  # one line for people; not identity
    # The output's address is <name>/<version>, whatever the recipe: for data that others know by that address. A recipe
    # that no longer is the stored output's is an error until somebody accepts it. None: <name>-<digest>.
    version: str | None = None
    override_output_path: str | None = None  # relative to the prefix, instead of <name>-<digest>; not identity
    # Extras or dependency groups of the project, or requirements, that the function needs; not identity. The step then
    # runs as a process of its own, in an environment made for them and kept (marin.cluster.environment).
    pip_dependency_groups: list[str] | None = None
    resources: Any = (
        None  # what to run on (marin.cluster.ResourceConfig); set: runs as a process of its own; not identity
    )
    code_version: str = ""  # raise it by hand after a fix that changes what the function computes: identity
    # Code that differs from that which made the output is, with "warn", said by plan and run; with "version", identity,
    # so that the step runs again after any edit that is more than a comment; with "ignore", nobody's business.
    code_policy: Literal["warn", "version", "ignore"] = "warn"
    versioning: Literal["all", "marked"] = "all"  # "marked": only versioned(...) values and inputs are identity
    publish: Literal["attempt", "inplace"] = "attempt"  # "inplace": finds its own partial output and resumes from it
    timeout_s: float | None = None  # seconds after which an attempt is stopped and has failed; not identity
    # How often it is tried again, and when (marin.cluster.retry.Retry); None: by its resources. Not identity.
    retry: Any = None
    tags: frozenset[str] = frozenset()  # words to find the step by; not identity

    def __post_init__(self) -> None:
        check_step_name(self.name)
        if (type(self.fn).__module__ or "").startswith("ray."):
            self._unwrap_ray_function()
        if isinstance(self.fn, str):
            if not _REFERENCE.fullmatch(self.fn):
                raise ValueError(
                    f"step '{self.name}': fn={self.fn!r} is not of the form 'package.module:function'; "
                    "give that, or the function itself"
                )
        elif not callable(self.fn):
            raise TypeError(f"step '{self.name}': fn must be a function or 'module:function', got {self.fn!r}")
        for field, allowed in _CHOICES:
            if getattr(self, field) not in allowed:
                raise ValueError(f"step '{self.name}': {field}={getattr(self, field)!r}; expected one of {allowed}")
        if not isinstance(self.code_version, str):
            raise TypeError(f"step '{self.name}': code_version must be a str, got {self.code_version!r}")
        check_output_type(self.output_type)
        if self.timeout_s is not None and not (self.runs_as_process and self.timeout_s > 0):
            raise ValueError(
                f"step '{self.name}': timeout_s={self.timeout_s!r} must be positive, and a step that can be "
                "stopped needs a process of its own: give it resources=ResourceConfig.with_cpu()"
            )
        if self.version is not None:
            if not isinstance(self.version, str) or not _NAME_PART.fullmatch(self.version):
                raise ValueError(
                    f"step '{self.name}': version={self.version!r} must be one word of the characters "
                    "A-Z a-z 0-9 . _ -, not beginning with '.', like '2026.11.24'"
                )
            if self.override_output_path is not None:
                raise ValueError(f"step '{self.name}': version= and override_output_path are two addresses; give one")
        if self.override_output_path is not None:
            what = f"step '{self.name}': override_output_path"
            _check_inside(self.override_output_path, what, "the prefix")
            if not self.override_output_path.isprintable():
                raise ValueError(f"{what}={self.override_output_path!r} holds a line end or another control character")
            object.__setattr__(self, "override_output_path", posixpath.normpath(self.override_output_path))
            if ".exec" in self.override_output_path.split("/"):
                raise ValueError(f"{what} may not be in '.exec', the executor's own")

    def _unwrap_ray_function(self) -> None:
        """Take the plain function out of a `@ray.remote` one, and its resources if the step names none."""
        from marin.cluster.ray import unwrap_ray_function

        unwrapped = unwrap_ray_function(self.fn)
        if unwrapped is not None:
            object.__setattr__(self, "fn", unwrapped[0])
            if self.resources is None:
                object.__setattr__(self, "resources", unwrapped[1])

    def __truediv__(self, name: str) -> "InputName":
        """The file or folder `name` in this step's output."""
        return InputName(self, name)

    cd = __truediv__

    @property
    def runs_as_process(self) -> bool:
        """Whether the function runs in a process of its own, not in the runner's."""
        return self.resources is not None or bool(self.pip_dependency_groups)

    def load(self, *, prefix: str | None = None) -> T_co:
        """The committed output as `output_type`, from the store `prefix` ($MARIN_PREFIX, else ./local_store).

        Runs nothing. Raises ValueError if the step has no output there that may be used; `marin.execution.executor.
        materialize` makes it first.
        """
        from marin.execution.executor import Executor

        return cast("T_co", Executor(prefix).load(self))

    def as_input_name(self) -> "InputName":
        """This step's output folder, as a value for another step's config."""
        return InputName(self, None)

    def with_output_path(self, path: str) -> "ExecutorStep":
        """The same step, writing to `path` under the prefix instead of `<name>-<digest>`."""
        return dataclasses.replace(self, override_output_path=path)

    def __repr__(self) -> str:  # the whole config could hold a chain of thousands of steps
        return f"ExecutorStep({self.name!r})"


def check_step_name(name: str) -> None:
    """Raise ValueError unless `name` can be a folder below any prefix: parts of letters, digits, '.', '_', '-'.

    Parts are joined by '/', do not begin with '.' and are at most 200 characters long.
    """
    if not isinstance(name, str):
        raise TypeError(f"a step name must be a str, got {name!r}")
    for part in name.split("/"):
        if not _NAME_PART.fullmatch(part) or len(part) > _MAX_NAME_PART:
            parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", p).strip("-.")[:_MAX_NAME_PART] for p in name.split("/")]
            near = "/".join(filter(None, parts))
            hint = f"; did you mean '{near}'?" if near and near != name else ""
            raise ValueError(
                f"bad step name {name!r}: the parts between '/' have 1 to {_MAX_NAME_PART} of the characters "
                f"A-Z a-z 0-9 . _ - and do not begin with '.'{hint}"
            )


def _check_inside(path: str, what: str, where: str) -> None:
    if not isinstance(path, str):
        raise TypeError(f"{what} must be a str, got {path!r}")
    if not path or path.startswith("/") or ".." in path.split("/") or posixpath.normpath(path) in (".", ".."):
        raise ValueError(f"{what}={path!r} must be a relative path that stays below {where}")


# -- placeholders for paths -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputName:
    """A path inside another step's output, or (without a step) a fixed path below the prefix."""

    step: ExecutorStep | None  # None: `name` is a path below the prefix, or an absolute one, that no step makes
    name: str | None  # path inside the step's output; None: the output folder itself
    block_on_step: bool = True  # False: the path is handed over without waiting for the step to finish

    def __post_init__(self) -> None:
        if self.step is None:
            if not self.name or not isinstance(self.name, str):
                raise ValueError(f"InputName without a step needs a path, got {self.name!r}")
        elif not isinstance(self.step, ExecutorStep):
            raise TypeError(f"InputName: expected an ExecutorStep, got {self.step!r}")
        elif self.name is not None:
            _check_inside(self.name, f"path in the output of step '{self.step.name}'", "that output")

    @staticmethod
    def hardcoded(path: str) -> "InputName":
        """A path that no step makes: relative to the prefix, or absolute. The text of the path is identity."""
        return InputName(None, path)

    def cd(self, name: str) -> "InputName":
        """The file or folder `name` below this one."""
        return dataclasses.replace(self, name=posixpath.join(self.name, name) if self.name else name)

    __truediv__ = cd

    def nonblocking(self) -> "InputName":
        """The same path, without waiting for the step: for readers that follow a step while it runs."""
        return dataclasses.replace(self, block_on_step=False)


@dataclass(frozen=True)
class OutputName:
    """A path inside the output of the very step whose config holds this."""

    name: str | None  # path inside the output; None: the output folder itself

    def __post_init__(self) -> None:
        if self.name is not None:
            _check_inside(self.name, "this_output_path: name", "the step's output")


def output_path_of(step: ExecutorStep | InputName, name: str | None = None) -> Any:
    """The output folder of `step`, or the file or folder `name` in it: an `InputName`.

    Annotated Any, because it stands in fields that hold a str by the time the step runs.
    """
    base = step if isinstance(step, InputName) else InputName(step, None)
    return base if name is None else base.cd(name)


def this_output_path(name: str | None = None) -> Any:
    """The output folder of the step whose config this stands in, or the file or folder `name` in it: an `OutputName`.

    Annotated Any, because it stands in fields that hold a str by the time the step runs.
    """
    return OutputName(name)


THIS_OUTPUT_PATH = OutputName(None)


def get_executor_step(run: ExecutorStep | InputName) -> ExecutorStep:
    """The step behind a reference. Raises ValueError for a hardcoded path, which has none."""
    if isinstance(run, ExecutorStep):
        return run
    if isinstance(run, InputName):
        if run.step is None:
            raise ValueError(f"the hardcoded path {run.name!r} belongs to no step")
        return run.step
    raise TypeError(f"expected an ExecutorStep or an InputName, got {run!r}")


# -- what is identity -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VersionedValue(Generic[T]):
    """A value that is part of the step's identity wherever it stands, even inside an excluded field."""

    value: T  # what the function will see


@dataclass(frozen=True)
class UnversionedValue(Generic[T]):
    """A value that is not part of the step's identity: changing it runs nothing again."""

    value: T  # what the function will see


def versioned(value: T) -> VersionedValue[T]:
    """Mark `value` as identity. Needed only with versioning="marked", or inside a field that is left out otherwise."""
    if isinstance(value, VersionedValue):
        raise ValueError(f"versioned({value!r}): already versioned; use ensure_versioned where either may come")
    return VersionedValue(value)


def ensure_versioned(value: VersionedValue[T] | T) -> VersionedValue[T]:
    """`value` marked as identity, whether or not it was before."""
    return value if isinstance(value, VersionedValue) else VersionedValue(value)


def unversioned(value: T) -> UnversionedValue[T]:
    """Mark `value` as not identity: the step's digest and output path do not depend on it."""
    return value if isinstance(value, UnversionedValue) else UnversionedValue(value)


def runtime(value: T) -> UnversionedValue[T]:
    """The same mark as `unversioned`, for values that say how a step runs (workers, caches), not what it makes."""
    return unversioned(value)


def unwrap_versioned_value(value: Any) -> Any:
    """`value` without the marks of `versioned` and `unversioned`, also inside dataclasses, lists, tuples and dicts."""
    if isinstance(value, VersionedValue | UnversionedValue):
        return unwrap_versioned_value(value.value)
    if isinstance(value, ExecutorStep | InputName | OutputName):
        return value
    if is_dataclass_value(value):
        old = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        new = {name: unwrap_versioned_value(v) for name, v in old.items()}
        return value if all(new[k] is old[k] for k in old) else dataclasses.replace(value, **new)
    if type(value) in (list, tuple):
        return type(value)([unwrap_versioned_value(v) for v in value])
    if type(value) is dict:
        return {k: unwrap_versioned_value(v) for k, v in value.items()}
    return value


def is_dataclass_value(value: Any) -> bool:
    """Whether `value` is an instance of a dataclass (`dataclasses.is_dataclass` says yes to the class too)."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


MISSING = dataclasses.MISSING


def version_meta(*, exclude: bool = False, omit_when: Any = MISSING, alias: str | None = None) -> Mapping[str, Any]:
    """Metadata for `dataclasses.field` that says how the field enters the identity of a step.

    exclude: the field is not identity. omit_when: the field is left out while it equals this literal, so that a field
    added later does not change the identity of steps that do not use it; write the literal, not today's default by
    name. alias: the name the field is recorded under, so that renaming it changes nothing.

        num_workers: int = field(default=4, metadata=version_meta(exclude=True))

    Packages that may not import the executor write the same thing out: `metadata={"version": {"exclude": True}}`.
    """
    rules: dict[str, Any] = {}
    if exclude:
        rules["exclude"] = True
    if omit_when is not MISSING:
        rules["omit_when"] = omit_when
    if alias is not None:
        rules["alias"] = alias
    return {"version": rules}
