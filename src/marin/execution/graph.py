"""From steps to a plan's graph: every step encoded once, every digest computed once, no recursion.

The digest of a step covers the digests of the steps it refers to, so it stands for the whole history of its output
(a Merkle tree). Steps are walked with an explicit stack, because a diamond of forty layers has 2^40 paths and a chain
of a thousand steps is deeper than Python's recursion limit. The cost of folding history into the digest: any change
upstream forks everything below it, which is why `plan` and `why` name the field that began it.

    digest = sha256("exec-step-v1\\0" + canonical)
    canonical = {"code_version", "config", "deps": [digest...], "fn_ref", "name", "pseudo": [digest...], "versioning"}
                and, with code_policy="version" only, "code": the root of marin.execution.fingerprint
"""

import contextlib
import copy
import dataclasses
import functools
import gc
import hashlib
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from marin.execution.canonical import Encoding, Memo, UnversionableError
from marin.execution.canonical_text import quoted, to_json
from marin.execution.references import function_reference
from marin.execution.step import (
    ExecutorStep,
    InputName,
    OutputName,
    UnversionedValue,
    VersionedValue,
    get_executor_step,
    is_dataclass_value,
)

SHORT = 10  # digits of the digest in an output path: 40 bits

_STEP_DOMAIN = b"exec-step-v1\0"
_CONFIG_DOMAIN = b"exec-config-v1\0"
_PIN_DOMAIN = b"exec-pin-v1\0"


class GraphError(ValueError):
    """The steps asked for cannot be planned: a cycle, or two steps that would write to one place."""


class NotAStepError(GraphError, TypeError):
    """Something else than a step was given to plan."""


@dataclass(eq=False, kw_only=True, slots=True)
class Node:
    """One planned step. Read-only; that this is not enforced makes a large plan quicker by a twentieth."""

    step: ExecutorStep  # the first of the steps with this digest
    digest: str  # 64 hexadecimal digits; of a step with version= they stand for the address, not for the recipe
    recipe: str  # digest of the recipe: the same as `digest` for every other step
    canonical: str  # the text that was hashed: the whole recipe
    deps: tuple[str, ...]  # digests of the steps that must have succeeded before, in order of appearance
    pseudo: tuple[str, ...]  # digests of the steps whose path is used without waiting for them
    path: str  # of the step's folder, relative to the prefix: <name>-<10 digits>, <name>/<version>, or as overridden
    fn_ref: str  # "module:function"
    unmarked_digest: str | None = None  # versioning="marked": digest of the whole config, None if it has none

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    @property
    def short(self) -> str:
        """The digits of the digest that paths and messages show."""
        return self.digest[:SHORT]

    def __repr__(self) -> str:
        return f"Node({self.step.name!r} @{self.short})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """The planned steps, each digest once. Read-only."""

    nodes: tuple[Node, ...]  # each after everything it refers to; the order is the same in every process
    targets: tuple[str, ...]  # digests of the steps asked for, each once, in the order given
    by_digest: Mapping[str, Node]  # the nodes by digest
    digests: Mapping[int, tuple[ExecutorStep, str]]  # id of a step object -> (that object, its digest)

    def __getitem__(self, digest: str) -> Node:
        return self.by_digest[digest]

    def __contains__(self, digest: str) -> bool:
        return digest in self.by_digest

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def node_of(self, step: ExecutorStep | InputName) -> Node:
        """The node of a step object of this graph. Raises KeyError for a step that is not in it."""
        step = get_executor_step(step)
        if id(step) not in self.digests:
            raise KeyError(f"step '{step.name}' is not part of this graph")
        return self.by_digest[self.digests[id(step)][1]]

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """Digests of the targets and of all they wait for; a step only referred to by .nonblocking() is not in it."""
        found, todo = set(self.targets), list(self.targets)
        while todo:
            for digest in self.by_digest[todo.pop()].deps:
                if digest not in found:
                    found.add(digest)
                    todo.append(digest)
        return frozenset(found)


def build_graph(steps: Iterable[ExecutorStep | InputName], *, prefix: str | None = None) -> Graph:
    """Plan the steps and everything they refer to, in time linear in steps and references.

    With `prefix`, a config that holds an absolute path below it as plain text is refused: such a path would put the
    place of the store into the identity. The prefix enters no digest.

    Raises GraphError for a cycle or two steps with one output path, UnversionableError for a config value that has no
    canonical form; both name the step.
    """
    targets = [_target(step) for step in steps]
    planner = _Planner(_refused_beginning(prefix))
    with no_collection():
        for step in targets:
            planner.add(step)
        target_digests = tuple(dict.fromkeys(planner.digest_of(step) for step in targets))
        nodes = _in_order(planner.nodes, target_digests)
        _check_paths(nodes)
    return Graph(nodes=nodes, targets=target_digests, by_digest=planner.nodes, digests=planner.digests)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection inside: a graph or a plan is many objects and no cycle, and a collection would look at all
    of them again and again (measured: a quarter of the time for a chain of 10,000 steps)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _refused_beginning(prefix: str | None) -> str | None:
    """What no text in a config may begin with: the prefix and a '/'. None without a prefix, or if that is all."""
    if prefix is not None and "://" not in prefix:
        prefix = os.path.abspath(prefix)
    return prefix.rstrip("/") + "/" if prefix and prefix.strip("/") else None


def _target(step: ExecutorStep | InputName) -> ExecutorStep:
    if not isinstance(step, ExecutorStep | InputName):
        hint = " (a list of steps inside the list?)" if isinstance(step, list | tuple) else ""
        raise NotAStepError(f"steps: expected ExecutorStep, got {type(step).__qualname__}{hint}")
    return get_executor_step(step)


class _Planner:
    """Digests by depth-first search with an explicit stack."""

    def __init__(self, prefix: str | None):
        self.prefix = prefix
        self.memo: Memo = {}
        self.nodes: dict[str, Node] = {}
        self.digests: dict[int, tuple[ExecutorStep, str]] = {}

    def digest_of(self, step: ExecutorStep) -> str:
        return self.digests[id(step)][1]

    def add(self, target: ExecutorStep) -> None:
        digests = self.digests
        if id(target) in digests:
            return
        encoding = self.encode(target)
        stack = [(target, encoding, iter(encoding.references()))]
        on_stack = {id(target)}
        while stack:
            step, encoding, todo = stack[-1]
            for other in todo:
                if id(other) in digests:
                    continue
                if id(other) in on_stack:
                    names = [s.name for s, _, _ in stack]
                    start = next(i for i, (s, _, _) in enumerate(stack) if s is other)
                    raise GraphError(
                        f"cycle: {' -> '.join([*names[start:], other.name])} (each needs the next); "
                        "break it by taking one of these references out of a config"
                    )
                inner = self.encode(other)
                stack.append((other, inner, iter(inner.references())))
                on_stack.add(id(other))
                break
            else:
                stack.pop()
                on_stack.discard(id(step))
                self.close(step, encoding)

    def encode(self, step: ExecutorStep, digest_of: Callable[[ExecutorStep], str] | None = None) -> Encoding:
        try:
            return Encoding(
                step.config,
                marked=step.versioning == "marked",
                memo=self.memo,
                prefix=self.prefix,
                digest_of=digest_of,
            )
        except UnversionableError as error:
            raise UnversionableError(f"step '{step.name}': {error}") from None

    def close(self, step: ExecutorStep, encoding: Encoding) -> None:
        """All steps that `step` refers to have digests: compute its own."""
        if encoding.needs_digests:
            encoding = self.encode(step, self.digest_of)
        deps, pseudo, run_deps, run_pseudo = encoding.finish(self.digest_of)
        try:
            fn_ref = step.fn if isinstance(step.fn, str) else function_reference(step.fn)
        except ValueError as error:
            raise UnversionableError(f"step '{step.name}': cannot version fn: {error}") from None
        code = f'"code":{quoted(_code_root(step))},' if step.code_policy == "version" else ""
        canonical = (
            f'{{{code}"code_version":{quoted(step.code_version)},"config":{to_json(encoding.tree)},'
            f'"deps":{_list_of(deps)},"fn_ref":{quoted(fn_ref)},"name":{quoted(step.name)},'
            f'"pseudo":{_list_of(pseudo)},"versioning":{quoted(step.versioning)}}}'
        )
        recipe = digest = hashlib.sha256(_STEP_DOMAIN + canonical.encode()).hexdigest()
        if step.version is not None:
            digest = pinned_digest(step.name, step.version)
            path = f"{step.name}/{step.version}"
        else:
            path = step.override_output_path or f"{step.name}-{digest[:SHORT]}"
        self.digests[id(step)] = (step, digest)
        known = self.nodes.get(digest)
        if known is not None:
            if known.recipe != recipe:
                raise GraphError(
                    f"two steps are '{step.name}' version {step.version!r} with different recipes "
                    f"(@{known.recipe[:SHORT]} and @{recipe[:SHORT]}); give one of them another version"
                )
            if known.path != path:
                raise GraphError(
                    f"step '{step.name}' @{digest[:SHORT]} has two output paths, '{known.path}' and '{path}'; "
                    "give both the same override_output_path, or different names"
                )
            return
        self.nodes[digest] = Node(
            step=step,
            digest=digest,
            recipe=recipe,
            canonical=canonical,
            deps=(*deps, *run_deps),
            pseudo=(*pseudo, *run_pseudo),
            path=path,
            fn_ref=fn_ref,
            unmarked_digest=self.unmarked_digest(step) if step.versioning == "marked" else None,
        )

    def unmarked_digest(self, step: ExecutorStep) -> str | None:
        """What the digest of the config would be if all of it counted; None if some of it cannot be written down."""
        try:
            encoding = Encoding(step.config, digest_of=self.digest_of)
        except UnversionableError:
            return None
        deps, pseudo, _, _ = encoding.finish(self.digest_of)
        text = to_json({"config": encoding.tree, "deps": deps, "pseudo": pseudo})
        return hashlib.sha256(_CONFIG_DOMAIN + text.encode()).hexdigest()


def _list_of(digests: list[str]) -> str:
    """The digests as canonical JSON."""
    return '["' + '","'.join(digests) + '"]' if digests else "[]"


def _code_root(step: ExecutorStep) -> str:
    from marin.execution.fingerprint import CodeError, code_root  # few steps ask for it

    try:
        return code_root(step.fn, step.config)
    except CodeError as error:
        raise UnversionableError(
            f"step '{step.name}': cannot version its code: {error}; mend that, or give up code_policy='version' and "
            "raise code_version by hand"
        ) from None


def pinned_digest(name: str, version: str) -> str:
    """Identity of a step with version=: its address, so that what reads it does not fork when its recipe drifts."""
    return hashlib.sha256(_PIN_DOMAIN + f"{name}\0{version}".encode()).hexdigest()


def _in_order(nodes: Mapping[str, Node], targets: tuple[str, ...]) -> tuple[Node, ...]:
    """Depth-first order by digests alone: the same however the sets in the configs were walked."""
    ordered: dict[str, Node] = {}
    for target in targets:
        stack = [(target, iter((*nodes[target].deps, *nodes[target].pseudo)))]
        while stack:
            digest, todo = stack[-1]
            for other in todo:
                if other not in ordered:
                    stack.append((other, iter((*nodes[other].deps, *nodes[other].pseudo))))
                    break
            else:
                stack.pop()
                ordered.setdefault(digest, nodes[digest])
    return tuple(ordered.values())


def _check_paths(nodes: Iterable[Node]) -> None:
    """No two steps write to one folder, and none into the folder of another. Steps have no path like a//b or a/./b."""
    owner: dict[str, Node] = {}
    for node in nodes:
        path = node.path
        if path in owner:
            raise GraphError(
                f"two steps with one output path '{path}': '{owner[path].name}' @{owner[path].short} and "
                f"'{node.name}' @{node.short}; give one of them another name or override_output_path"
            )
        owner[path] = node
    free: set[str] = set()  # folders that are known to be in the output of no step
    for path, node in owner.items():
        passed, parent = [], path.rpartition("/")[0]
        while parent and parent not in free:
            if parent in owner:
                raise GraphError(
                    f"step '{node.name}' would write to '{path}', inside the output of '{owner[parent].name}' "
                    f"('{parent}'); give one of them another override_output_path"
                )
            passed.append(parent)
            parent = parent.rpartition("/")[0]
        free.update(passed)


# -- the config a step's function gets --------------------------------------------------------------------------------


def resolve_config(
    node: Node, graph: Graph, output_path: str, data_roots: Mapping[str, str], *, prefix: str | None = None
) -> Any:
    """The config with every placeholder replaced: what the step's function is called with.

    A step or InputName becomes the data root of the step, with the path inside it; OutputName becomes `output_path`
    with the path inside it; versioned and unversioned values become the values. A hardcoded relative path is taken
    below `prefix`. Whatever holds no placeholder is handed over as it is, uncopied.

    Raises KeyError, naming the step, if `data_roots` (digest -> absolute data root) lacks one that the config uses.
    """

    def root_of(step: ExecutorStep) -> str:
        digest = graph.digests[id(step)][1]
        if digest not in data_roots:
            raise KeyError(f"step '{node.name}': no data root for its input '{step.name}' @{digest[:SHORT]}")
        return data_roots[digest]

    def below(root: str, sub: str | None) -> str:
        return os.path.join(root, os.path.normpath(sub)) if sub is not None else root

    def resolve(value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is tuple or kind is list:
            return _rebuild_sequence(value, resolve)
        if isinstance(value, InputName):
            if value.step is not None:
                return below(root_of(value.step), value.name)
            return os.path.join(prefix, value.name or "") if prefix is not None else value.name
        if isinstance(value, OutputName):
            return below(output_path, value.name)
        if isinstance(value, ExecutorStep):
            return root_of(value)
        if isinstance(value, VersionedValue | UnversionedValue):
            return resolve(value.value)
        return _rebuild(value, resolve)

    return resolve(node.step.config)


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


@functools.cache
def _field_names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


@functools.cache
def _derived_names(cls: type) -> tuple[str, ...]:
    """The fields that no argument of the class sets."""
    return tuple(field.name for field in dataclasses.fields(cls) if not field.init)


def _rebuild_sequence(value: Any, resolve: Callable[[Any], Any]) -> Any:
    kind, items = type(value), list(value)
    new = [resolve(v) for v in items]
    if all(a is b for a, b in zip(items, new, strict=True)):
        return value
    return kind(*new) if hasattr(kind, "_fields") else kind(new)


def _rebuild(value: Any, resolve: Callable[[Any], Any]) -> Any:
    """`value` with resolve applied to what it holds; the same object if that changed nothing."""
    kind = type(value)
    if is_dataclass_value(value):
        changed = {}
        for name in _field_names(kind):
            old = getattr(value, name)
            if type(old) not in _PLAIN and (new := resolve(old)) is not old:
                changed[name] = new
        if not changed:
            return value
        derived = {name: changed.pop(name) for name in _derived_names(kind) if name in changed}
        result = dataclasses.replace(value, **changed) if changed else copy.copy(value)
        for name, new in derived.items():
            object.__setattr__(result, name, new)
        return result
    if isinstance(value, dict | types.MappingProxyType):
        new = {resolve(k): resolve(v) for k, v in value.items()}
        if all(a is b for pair in zip(value.items(), new.items(), strict=False) for a, b in zip(*pair, strict=True)):
            return value
        if isinstance(value, types.MappingProxyType):
            return types.MappingProxyType(new)
        result = copy.copy(value)  # keeps the kind, and the factory of a defaultdict
        result.clear()
        result.update(new)
        return result
    if isinstance(value, list | tuple | set | frozenset):
        return _rebuild_sequence(value, resolve)
    if kind is functools.partial:
        func, args, keywords = resolve(value.func), resolve(value.args), resolve(value.keywords)
        unchanged = func is value.func and args is value.args and keywords is value.keywords
        return value if unchanged else functools.partial(func, *args, **keywords)
    if hasattr(kind, "model_fields") and hasattr(value, "model_copy"):  # pydantic
        old = {name: getattr(value, name) for name in kind.model_fields}
        new = {name: resolve(v) for name, v in old.items()}
        return value if all(new[k] is old[k] for k in old) else value.model_copy(update=new)
    return value
