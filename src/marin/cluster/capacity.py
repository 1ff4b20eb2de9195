"""What a machine has, and who holds which part of it.

A machine is a vector: cores, memory, GPUs one by one, TPU slices, scratch space, and whatever else somebody names. A
job starts when what it asks for is free in every part, and a job that asks for more than the whole machine is an error
that can be told before anything runs. This is bookkeeping, not enforcement: nobody is stopped from using more than he
asked for. Only GPUs are handed out by name, through CUDA_VISIBLE_DEVICES, so that two jobs never meet on one.

A job that asks for no GPU still sees them all. Hiding them would be stricter, but a step that finds a GPU by itself
would lose it without a word, and jax with its CUDA plugin does not start where CUDA_VISIBLE_DEVICES is empty
(jax-ml/jax#37668). A step that must keep off sets JAX_PLATFORMS=cpu itself.
"""

import difflib
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from marin.cluster.resources import ResourceConfig, parse_bytes

VARIABLE = "MARIN_CAPACITY"

_KEYS = ("cpu", "ram", "disk", "gpu", "gpu:KIND", "tpu:TYPE", "custom:NAME")
_NVIDIA_SMI_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    device: str  # what CUDA_VISIBLE_DEVICES calls it: an index or a UUID
    kind: str | None = None  # its name by the driver, like "NVIDIA H100 80GB HBM3"; None: unknown

    def is_a(self, device_type: str | None) -> bool:
        """Whether it serves a request for `device_type`: the words of "a100-80gb" are among those of its name.

        An unknown one serves every request: whoever counted GPUs without naming them knows what they are.
        """
        if device_type is None or self.kind is None:
            return True
        words = re.findall(r"[a-z0-9]+", self.kind.lower())
        # "rtx4090" is two words of the name, and "a10" is none of "A100"
        known = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
        return all(word in known for word in re.findall(r"[a-z0-9]+", device_type.lower()))


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a machine has, or has left."""

    cpu: int  # cores
    ram: int | None = None  # bytes of main memory; None: unknown, and requests for it are not counted
    disk: int | None = None  # bytes of scratch space; None: unknown, and requests for it are not counted
    gpus: tuple[Gpu, ...] = ()  # its NVIDIA GPUs
    tpus: Mapping[str, int] = field(default_factory=dict)  # slices by type, like {"v4-8": 1}
    custom: Mapping[str, float] = field(default_factory=dict)  # anything else that can be counted, by name
    gpu_env: Mapping[str, str] = field(default_factory=dict)  # variables under which the GPUs have these names
    owner: str = "this machine"  # who has it, in messages

    @staticmethod
    def of_this_machine(*, environ: Mapping[str, str] | None = None, root: str = "/") -> "Capacity":
        """What this process may use of this machine, then what `MARIN_CAPACITY` says instead.

        Cores by affinity and cgroup, memory by the kernel and cgroup, scratch space as it is free now in the temporary
        folder, GPUs by CUDA_VISIBLE_DEVICES and the driver (looked up once), a TPU by TPU_ACCELERATOR_TYPE where this
        host is all of its slice. `root` is where /proc, /sys and /dev are looked for.

        MARIN_CAPACITY="cpu=4,ram=16g,gpu=2" is for people who share a machine; what it does not name stays as found.
        """
        environ = os.environ if environ is None else environ
        gpus, gpu_env = _visible_gpus(environ, root)
        found = Capacity(
            cpu=_cores(root),
            ram=_memory(root),
            disk=_scratch_space(),
            gpus=gpus,
            gpu_env=gpu_env,
            tpus=_tpus(environ),
        )
        text = environ.get(VARIABLE, "").strip()
        return _stated(text, found) if text else found

    def lacks(self, request: ResourceConfig) -> tuple[str, ...]:
        """What the request asks for beyond this, one phrase for each part; () if it fits."""
        missing = []
        if request.cpu > self.cpu:
            missing.append(f"asks for {_cores_text(request.cpu)}, {self.owner} has {self.cpu}")
        for asked, have, what in ((request.ram, self.ram, "memory"), (request.disk, self.disk, "scratch space")):
            if asked is not None and have is not None and parse_bytes(asked) > have:
                missing.append(
                    f"asks for {_bytes_text(parse_bytes(asked))} of {what}, {self.owner} has {_bytes_text(have)}"
                )
        if request.device == "gpu":
            count, kind = request.device_count, request.device_type
            if count > sum(gpu.is_a(kind) for gpu in self.gpus):
                asked = f"{count} {kind} GPU" if kind else f"{count} GPU"
                missing.append(f"asks for {asked}{'s' * (count > 1)}, {self.owner} has {_gpus_text(self.gpus)}")
        if request.device == "tpu":
            kind = request.device_type or "TPU"
            have = self.tpus.get(kind, 0) if request.device_type else sum(self.tpus.values())
            if request.device_count > have:
                asked = f"{request.device_count} slice{'s' * (request.device_count > 1)} of TPU {kind}"
                others = ", ".join(f"{n} of {name}" for name, n in sorted(self.tpus.items()))
                missing.append(f"asks for {asked}, {self.owner} has {others or 'none'}")
        for name, asked in sorted(request.custom.items()):
            if asked > (have := self.custom.get(name, 0)):
                missing.append(f"asks for {asked:g} of '{name}', {self.owner} has {f'{have:g}' if have else 'none'}")
        return tuple(missing)


@dataclass(frozen=True, eq=False, kw_only=True)
class Allocation:
    """A part of a machine that one job holds."""

    request: ResourceConfig  # what was asked for
    gpus: tuple[Gpu, ...] = ()  # the GPUs it got
    tpus: Mapping[str, int] = field(default_factory=dict)  # the slices it got, by type
    env: Mapping[str, str] = field(default_factory=dict)  # variables to start the job with, so that it uses just these


class Allocator:
    """Keeps the books of one machine. For one thread: whoever starts the jobs.

    allocator = Allocator(Capacity.of_this_machine())
    if reason := allocator.why_never(request): ...  # an error, before anything runs
    if allocator.fits(request):
        allocation = allocator.take(request)
    """

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._held: dict[int, Allocation] = {}
        self._left = capacity

    @property
    def held(self) -> tuple[Allocation, ...]:
        """What is taken now, in the order of taking."""
        return tuple(self._held.values())

    @property
    def left(self) -> Capacity:
        """What nobody holds now."""
        return self._left

    def why_never(self, request: ResourceConfig) -> str | None:
        """Why not even the idle machine could run this, in words; None if it could."""
        return "; ".join(self.capacity.lacks(request)) or None

    def fits(self, request: ResourceConfig) -> bool:
        """Whether all of it is free now."""
        return not self._left.lacks(request)

    def take(self, request: ResourceConfig) -> Allocation:
        """Hold what the request asks for; the lowest-numbered GPUs that serve. It must fit."""
        assert self.fits(request), f"{request} does not fit into {self._left}"
        gpus: tuple[Gpu, ...] = ()
        tpus: dict[str, int] = {}
        env: dict[str, str] = {}
        if request.device == "gpu":
            serving = [gpu for gpu in self._left.gpus if gpu.is_a(request.device_type)]
            gpus = tuple(serving[: request.device_count])
            env = {**self.capacity.gpu_env, "CUDA_VISIBLE_DEVICES": ",".join(gpu.device for gpu in gpus)}
        elif request.device == "tpu":
            missing = request.device_count
            for kind, count in sorted(self._left.tpus.items()):
                if missing and count and request.device_type in (None, kind):
                    tpus[kind] = min(count, missing)
                    missing -= tpus[kind]
        allocation = Allocation(request=request, gpus=gpus, tpus=tpus, env=env)
        self._held[id(allocation)] = allocation
        self._count()
        return allocation

    def free(self, allocation: Allocation) -> None:
        """Give it back; once."""
        del self._held[id(allocation)]
        self._count()

    def _count(self) -> None:
        whole, held = self.capacity, self.held
        taken = {gpu.device for allocation in held for gpu in allocation.gpus}
        self._left = replace(
            whole,
            owner=f"what is free of {whole.owner}",
            cpu=whole.cpu - sum(a.request.cpu for a in held),
            ram=None if whole.ram is None else whole.ram - sum(parse_bytes(a.request.ram or "0") for a in held),
            disk=None if whole.disk is None else whole.disk - sum(parse_bytes(a.request.disk or "0") for a in held),
            gpus=tuple(gpu for gpu in whole.gpus if gpu.device not in taken),
            tpus={kind: count - sum(a.tpus.get(kind, 0) for a in held) for kind, count in whole.tpus.items()},
            custom={
                name: float(_exact(count) - sum(_exact(a.request.custom.get(name, 0)) for a in held))
                for name, count in whole.custom.items()
            },
        )


def _exact(amount: float) -> Decimal:
    """The amount as it is written: ten times 0.1 are 1."""
    return Decimal(repr(amount))


def _cores_text(count: int) -> str:
    return f"{count} core{'s' * (count != 1)}"


def _bytes_text(count: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def _gpus_text(gpus: tuple[Gpu, ...]) -> str:
    kinds: dict[str, int] = {}
    for gpu in gpus:
        kinds[gpu.kind or "unknown kind"] = kinds.get(gpu.kind or "unknown kind", 0) + 1
    return ", ".join(f"{count} ({kind})" for kind, count in kinds.items()) or "none"


# -- what the variable says -------------------------------------------------------------------------------------------


def _stated(text: str, found: Capacity) -> Capacity:
    """`found` with what `text` ("cpu=4,gpu:h100=2,custom:license=1") says in place of it."""
    changes: dict[str, object] = {"owner": f"{found.owner} (by {VARIABLE})"}
    gpus: list[tuple[str | None, int]] = []
    tpus: dict[str, int] = {}
    custom: dict[str, float] = {}
    has_tpus = False
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        head, _, tail = key.partition(":")
        try:
            if not equals:
                raise ValueError("write NAME=AMOUNT")
            if key in ("ram", "disk"):
                changes[key] = parse_bytes(value)
            elif key == "cpu":
                changes["cpu"] = _whole_number(value, least=1)
            elif head == "gpu" and (tail or key == "gpu"):
                gpus.append((tail or None, _whole_number(value)))
            elif head == "tpu" and (tail or value == "0"):
                has_tpus = True
                if tail:
                    tpus[tail] = _whole_number(value)
            elif head == "custom" and tail:
                custom[tail] = _number(value)
            else:
                near = [known for known in _KEYS if known.startswith(f"{key}:")]
                near = near or difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise ValueError(f"there is no '{key}'; {hint}It may name {', '.join(_KEYS)}")
        except ValueError as error:
            raise ValueError(f"{VARIABLE}={text!r}: {part!r}: {error}") from None
    if gpus:
        changes["gpus"] = _stated_gpus(gpus, found.gpus)
    if has_tpus:
        changes["tpus"] = tpus
    return replace(found, **changes, custom={**found.custom, **custom})


def _whole_number(text: str, *, least: int = 0) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise ValueError(f"expected a whole number from {least}, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"expected a number like 2 or 0.5, got {text!r}")
    return float(text)


def _stated_gpus(stated: list[tuple[str | None, int]], found: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The first of those found that are of the stated kinds; where there are too few, numbers that are not taken."""
    chosen: dict[str, Gpu] = {}
    for kind, count in stated:
        serving = [gpu for gpu in found if gpu.is_a(kind) and gpu.device not in chosen][:count]
        chosen |= {gpu.device: gpu for gpu in serving}
        index = 0
        for _ in range(count - len(serving)):
            while str(index) in chosen or any(gpu.device == str(index) for gpu in found):
                index += 1
            chosen[str(index)] = Gpu(device=str(index), kind=kind)
    return tuple(chosen.values())


# -- what the machine says --------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    """The file's text; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cgroup_files(root: str, controller: str, name_v2: str, name_v1: str) -> list[Path]:
    """The files that limit this process: of its own group and of every group above it, in both versions.

    In a container /proc names groups of the host that are not there to see; its own is then the topmost.
    """
    files = []
    for line in _read(Path(root, "proc/self/cgroup")).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            bases, name = (Path(root, "sys/fs/cgroup"), Path(root, "sys/fs/cgroup/unified")), name_v2
        elif controller in controllers.split(","):
            bases = (Path(root, "sys/fs/cgroup", controllers), Path(root, "sys/fs/cgroup", controller))
            name = name_v1
        else:
            continue
        inner = Path(group.strip("/"))
        for base in dict.fromkeys(bases):
            files += [base / level / name for level in (inner, *inner.parents)]
    return list(dict.fromkeys(files))


def _cores(root: str) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in _cgroup_files(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        words = _read(path).split()
        if path.name == "cpu.cfs_quota_us":
            words += _read(path.with_name("cpu.cfs_period_us")).split()
        if len(words) == 2 and all(re.fullmatch(r"\d+", word) for word in words) and int(words[1]):
            cores = min(cores, int(words[0]) // int(words[1]))
    return max(cores, 1)


def _memory(root: str) -> int | None:
    sizes = []
    if match := re.search(r"^MemTotal:\s*(\d+) kB", _read(Path(root, "proc/meminfo")), re.MULTILINE):
        sizes.append(int(match[1]) * 1024)
    elif {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _cgroup_files(root, "memory", "memory.max", "memory.limit_in_bytes"):
        if (text := _read(path)).isdigit():
            sizes.append(int(text))
    return min(sizes) if sizes else None


def _scratch_space() -> int | None:
    import shutil
    import tempfile

    try:
        return shutil.disk_usage(tempfile.gettempdir()).free
    except OSError:
        return None


def _tpus(environ: Mapping[str, str]) -> dict[str, int]:
    kind = environ.get("TPU_ACCELERATOR_TYPE")
    hosts = [host for host in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host.strip()]
    return {kind: 1} if kind and len(hosts) <= 1 else {}


@functools.cache
def _installed_gpus(root: str, smi: str | None) -> tuple[tuple[Gpu, str], ...]:
    """(GPU by its number in the order of the bus, its UUID or "") of each GPU that this process could open."""
    gpus: list[tuple[Gpu, str]] = []
    # The driver's files first: reading them takes microseconds, and nvidia-smi up to seconds.
    for path in sorted(Path(root, "proc/driver/nvidia/gpus").glob("*/information")):
        facts = {}
        for line in _read(path).splitlines():
            name, _, value = line.partition(":")
            facts[name.strip()] = value.strip()
        # In a container they tell of all GPUs of the host, and /dev of those it was given.
        if facts.get("GPU Excluded") == "Yes" or not Path(root, f"dev/nvidia{facts.get('Device Minor')}").exists():
            continue
        gpus.append((Gpu(device=str(len(gpus)), kind=facts.get("Model") or None), facts.get("GPU UUID", "")))
    devices = [p.name for p in Path(root, "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)]
    if gpus or not (devices or Path(root, "dev/dxg").exists()):  # dxg: the driver is Windows's
        return tuple(gpus)
    if smi is not None:
        for name, uuid in re.findall(r"^GPU \d+: (.+?) \(UUID: (\S+)\)", _output_of(smi, "-L"), re.MULTILINE):
            gpus.append((Gpu(device=str(len(gpus)), kind=name), uuid))
    return tuple(gpus) or tuple((Gpu(device=str(i)), "") for i in range(len(devices)))


def _output_of(*command: str) -> str:
    import subprocess

    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _visible_gpus(environ: Mapping[str, str], root: str) -> tuple[tuple[Gpu, ...], dict[str, str]]:
    """(the GPUs that CUDA would show this process, variables that must be set for their names to hold)."""
    import shutil

    installed = _installed_gpus(root, shutil.which("nvidia-smi", path=environ.get("PATH")))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not installed:
        # Unless told so, CUDA numbers by speed, and not as the driver does.
        return tuple(gpu for gpu, _ in installed), {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if installed else {}
    # The user's own names stay as they are. Numbers tell the kind only where CUDA counts as the driver does.
    kinds = {gpu.kind for gpu, _ in installed}
    by_number = len(kinds) == 1 or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    gpus: dict[str, Gpu] = {}
    for name in (name.strip() for name in visible.split(",")):
        if re.fullmatch(r"\d+", name):
            if int(name) >= len(installed):
                break  # CUDA ignores the first name that it does not know, and all after it
            kind = installed[int(name)][0].kind if by_number else None
        elif name.startswith("MIG-"):
            kind = None
        else:
            kind = next((gpu.kind for gpu, uuid in installed if name and uuid.startswith(name)), "")
            if kind == "":
                break
        gpus[name] = Gpu(device=name, kind=kind)
    return tuple(gpus.values()), {}
