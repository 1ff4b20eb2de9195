"""What a machine has, and that nobody gets more of it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from marin.cluster import ResourceConfig
from marin.cluster.capacity import Allocator, Capacity, Gpu
from marin.cluster.resources import parse_bytes

H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"


MACHINE = Capacity(
    cpu=8,
    ram=parse_bytes("64g"),
    disk=parse_bytes("1t"),
    gpus=(*(Gpu(device=str(i), kind=H100) for i in range(2)), Gpu(device="2", kind=A100), Gpu(device="GPU-5e1f")),
    tpus={"v4-8": 2, "v5p-8": 1},
    custom={"license": 3, "bandwidth": 1},
)

devices = st.one_of(
    st.just({"device": "cpu"}),
    st.builds(
        lambda kind, n: {"device": "gpu", "device_type": kind, "device_count": n},
        st.sampled_from([None, "h100", "a100", "a10", "h100-80gb"]),
        st.integers(1, 5),
    ),
    st.builds(
        lambda kind, n: {"device": "tpu", "device_type": kind, "device_count": n},
        st.sampled_from([None, "v4-8", "v5p-8", "v6e-1"]),
        st.integers(1, 4),
    ),
)

# mostly small ones, so that several run side by side
requests = st.builds(
    lambda device, **rest: ResourceConfig(**device, **rest),
    devices,
    cpu=st.sampled_from([1, 1, 1, 2, 3, 9]),
    ram=st.sampled_from([None, None, "1g", "20g", "64g", "65g"]),
    disk=st.sampled_from([None, None, "100g", "300g", "1t", "2t"]),
    custom=st.sampled_from(
        [{}, {}, {"license": 1}, {"license": 2, "bandwidth": 0.1}, {"bandwidth": 0.5}, {"other": 1}]
    ),
)


class Books(RuleBasedStateMachine):
    """Any order of taking and freeing, of requests of every shape."""

    allocations = Bundle("allocations")

    def __init__(self):
        super().__init__()
        self.allocator = Allocator(MACHINE)
        self.held = []

    @rule(target=allocations, request=requests)
    def take_if_it_fits(self, request):
        if not self.allocator.fits(request):
            # what cannot run now can run later, or never at all; and it can run later only beside somebody
            assert self.held or self.allocator.why_never(request)
            return None
        assert self.allocator.why_never(request) is None
        allocation = self.allocator.take(request)
        self.held.append(allocation)
        if request.device == "gpu":
            assert len(allocation.gpus) == request.device_count
            assert all(gpu.is_a(request.device_type) for gpu in allocation.gpus)
            assert allocation.env["CUDA_VISIBLE_DEVICES"] == ",".join(gpu.device for gpu in allocation.gpus)
        else:
            assert not allocation.gpus and not allocation.env
        if request.device == "tpu":
            assert sum(allocation.tpus.values()) == request.device_count
        return allocation

    @rule(allocation=consumes(allocations))
    def free(self, allocation):
        if allocation is not None:
            self.allocator.free(allocation)
            self.held.remove(allocation)

    @rule()
    def everything_is_back_when_nobody_holds_anything(self):
        if not self.held:
            assert (self.allocator.left.cpu, self.allocator.left.gpus) == (MACHINE.cpu, MACHINE.gpus)
            assert self.allocator.left.custom == MACHINE.custom and self.allocator.left.tpus == MACHINE.tpus

    @invariant()
    def nobody_holds_more_than_there_is(self):
        asked = [a.request for a in self.held]
        assert sum(r.cpu for r in asked) <= MACHINE.cpu
        assert sum(parse_bytes(r.ram or "0") for r in asked) <= MACHINE.ram
        assert sum(parse_bytes(r.disk or "0") for r in asked) <= MACHINE.disk
        for name in {name for r in asked for name in r.custom}:
            assert sum(r.custom.get(name, 0) for r in asked) <= MACHINE.custom.get(name, 0) + 1e-9
        for kind in {kind for a in self.held for kind in a.tpus}:
            assert sum(a.tpus.get(kind, 0) for a in self.held) <= MACHINE.tpus[kind]

    @invariant()
    def no_gpu_is_held_by_two(self):
        names = [gpu.device for a in self.held for gpu in a.gpus]
        assert len(names) == len(set(names))
        assert set(names) <= {gpu.device for gpu in MACHINE.gpus}


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(deadline=None)
@given(st.lists(requests, max_size=12))
def test_every_request_that_fits_alone_is_taken_in_the_end(queue):
    """In the order of asking, and freed in that order too: nothing waits for ever."""
    allocator = Allocator(MACHINE)
    waiting = [request for request in queue if allocator.why_never(request) is None]
    expected, done = len(waiting), 0
    while waiting or allocator.held:
        while waiting and allocator.fits(waiting[0]):
            allocator.take(waiting.pop(0))
        assert allocator.held, f"the idle machine does not take {waiting[0]}"
        allocator.free(allocator.held[0])
        done += 1
    assert done == expected


def test_fractions_add_up_as_they_are_written():
    allocator = Allocator(Capacity(cpu=100, custom={"bandwidth": 1}))
    tenth = ResourceConfig(device="cpu", custom={"bandwidth": 0.1})
    held = [allocator.take(tenth) for _ in range(10)]
    assert not allocator.fits(tenth)
    allocator.free(held[3])
    assert allocator.fits(tenth)


def test_an_impossible_request_is_told_part_by_part():
    small = Allocator(Capacity(cpu=2, ram=parse_bytes("16g"), gpus=(Gpu(device="0", kind=A100),), tpus={"v4-8": 1}))
    request = ResourceConfig(device="gpu", device_type="h100", device_count=2, cpu=8, ram="64g", custom={"license": 1})
    assert small.why_never(request) == (
        "asks for 8 cores, this machine has 2; asks for 64 GB of memory, this machine has 16 GB; "
        f"asks for 2 h100 GPUs, this machine has 1 ({A100}); asks for 1 of 'license', this machine has none"
    )
    assert small.why_never(ResourceConfig.with_tpu("v4-16")) == (
        "asks for 1 slice of TPU v4-16, this machine has 1 of v4-8"
    )
    assert small.why_never(ResourceConfig.with_gpu("a100")) is None
    none = Allocator(Capacity(cpu=1))
    assert none.why_never(ResourceConfig.with_gpu()) == "asks for 1 GPU, this machine has none"
    assert none.why_never(ResourceConfig.with_cpu(ram="1t", disk="1t")) is None  # how much it has is not known


@pytest.mark.parametrize(
    "asked, name, fits",
    [
        ("h100", H100, True),
        ("H100-80GB", H100, True),
        ("a100", A100, True),
        ("a10", A100, False),
        ("a100-80gb", A100, False),
        ("rtx4090", "NVIDIA GeForce RTX 4090", True),
        ("a100", None, True),
        (None, H100, True),
    ],
)
def test_the_kind_of_a_gpu_is_told_by_the_words_of_its_name(asked, name, fits):
    assert Gpu(device="0", kind=name).is_a(asked) is fits


# -- detection --------------------------------------------------------------------------------------------------------


def write(root: Path, files: Mapping[str, str]) -> str:
    """A made-up /proc and /sys."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_this_machine_has_what_the_kernel_says():
    here = Capacity.of_this_machine(environ={})
    assert 1 <= here.cpu <= os.cpu_count()
    assert 0 < here.ram <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert Allocator(here).why_never(ResourceConfig.with_cpu(cpu=1, ram="1m")) is None


MEMINFO = "MemTotal:       24683656 kB\nMemFree: 1 kB\n"


def test_a_container_gets_what_its_cgroup_allows(tmp_path):
    group = {"sys/fs/cgroup/cpu.max": "150000 100000\n", "sys/fs/cgroup/memory.max": "4294967296\n"}
    root = write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n", **group})
    found = Capacity.of_this_machine(environ={}, root=root)
    assert (found.cpu, found.ram) == (1, 4 << 30)
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"})
    free = Capacity.of_this_machine(environ={}, root=root)
    assert (free.cpu, free.ram) == (Capacity.of_this_machine(environ={}).cpu, 24683656 * 1024)


def test_the_tightest_group_above_counts(tmp_path):
    groups = {"sys/fs/cgroup/user/memory.max": "1073741824", "sys/fs/cgroup/user/job/memory.max": "8589934592"}
    root = write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user/job\n", **groups})
    assert Capacity.of_this_machine(environ={}, root=root).ram == 1 << 30


def test_the_first_version_of_cgroups_is_read_too(tmp_path):
    root = write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/not/visible/here\n2:cpu,cpuacct:/job\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
    )
    found = Capacity.of_this_machine(environ={}, root=root)
    assert (found.cpu, found.ram) == (1, 2 << 30)
    write(tmp_path, {"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n"})
    assert Capacity.of_this_machine(environ={}, root=root).cpu == Capacity.of_this_machine(environ={}).cpu


def gpu_machine(root: Path, *names: str, given: int | None = None) -> str:
    """The driver's files for GPUs of these names, of which the first `given` are in /dev."""
    for i, name in enumerate(names):
        folder = root / f"proc/driver/nvidia/gpus/0000:{i:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t {name}\nIRQ:   \t\t 44\nGPU UUID: \t GPU-{i}aaa\nBus Type: \t PCIe\n"
            f"Bus Location: \t 0000:{i:02x}:00.0\nDevice Minor: \t {i}\nGPU Excluded:\t No\n"
        )
    (root / "dev").mkdir()
    (root / "dev/nvidiactl").touch()
    for i in range(len(names) if given is None else given):
        (root / f"dev/nvidia{i}").touch()
    return str(root)


def found_gpus(root: str, **environ: str) -> list[tuple[str, str | None]]:
    return [(gpu.device, gpu.kind) for gpu in Capacity.of_this_machine(environ=environ, root=root).gpus]


def test_gpus_are_those_of_the_driver_in_its_own_order(tmp_path):
    root = gpu_machine(tmp_path, H100, A100)
    assert found_gpus(root) == [("0", H100), ("1", A100)]
    allocation = Allocator(Capacity.of_this_machine(environ={}, root=root)).take(ResourceConfig.with_gpu("a100"))
    # unless told so, CUDA counts by speed
    assert allocation.env == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_gpus_of_the_host_that_a_container_was_not_given_do_not_count(tmp_path):
    assert found_gpus(gpu_machine(tmp_path, H100, H100, given=1)) == [("0", H100)]


def test_the_users_own_choice_of_gpus_keeps_its_names(tmp_path):
    root = gpu_machine(tmp_path, H100, A100)
    assert found_gpus(root, CUDA_VISIBLE_DEVICES="") == []
    assert found_gpus(root, CUDA_VISIBLE_DEVICES="-1") == []
    assert found_gpus(root, CUDA_VISIBLE_DEVICES="GPU-1a, GPU-0aaa") == [("GPU-1a", A100), ("GPU-0aaa", H100)]
    assert found_gpus(root, CUDA_VISIBLE_DEVICES="MIG-77") == [("MIG-77", None)]
    # which of two different ones CUDA calls 1 is its own business, unless it counts by the bus
    assert found_gpus(root, CUDA_VISIBLE_DEVICES="1") == [("1", None)]
    assert found_gpus(root, CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID") == [("1", A100)]
    assert found_gpus(root, CUDA_VISIBLE_DEVICES="0,7,1") == [("0", None)]  # as CUDA does
    mine = Capacity.of_this_machine(environ={"CUDA_VISIBLE_DEVICES": "GPU-1a"}, root=root)
    assert Allocator(mine).take(ResourceConfig.with_gpu()).env == {"CUDA_VISIBLE_DEVICES": "GPU-1a"}


def test_where_the_drivers_files_are_hidden_nvidia_smi_is_asked(tmp_path):
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'GPU 0: {H100} (UUID: GPU-12)'\necho '  MIG 1g.10gb (UUID: MIG-3)'\n")
    program.chmod(0o755)
    (tmp_path / "machine").mkdir()
    root = gpu_machine(tmp_path / "machine", given=1)
    assert found_gpus(root, PATH=str(program.parent)) == [("0", H100)]
    assert found_gpus(root, PATH="") == [("0", None)]


def test_a_variable_left_over_makes_no_gpu(tmp_path):
    assert found_gpus(str(tmp_path), CUDA_VISIBLE_DEVICES="0") == []


def test_a_tpu_is_known_where_one_host_is_all_of_it(tmp_path):
    def tpus(**environ):
        return Capacity.of_this_machine(environ=environ, root=str(tmp_path)).tpus

    assert tpus(TPU_ACCELERATOR_TYPE="v4-8") == {"v4-8": 1}
    assert tpus(TPU_ACCELERATOR_TYPE="v4-16", TPU_WORKER_HOSTNAMES="a,b") == {}


def test_people_who_share_a_machine_say_what_is_theirs(tmp_path):
    root = gpu_machine(tmp_path, H100, A100, A100)

    def stated(text):
        return Capacity.of_this_machine(environ={"MARIN_CAPACITY": text}, root=root)

    mine = stated("cpu=64, ram=16g,gpu=2, custom:license=0.5, tpu:v4-8=1")
    assert (mine.cpu, mine.ram, mine.tpus, mine.custom) == (64, 16 * 10**9, {"v4-8": 1}, {"license": 0.5})
    assert [gpu.kind for gpu in mine.gpus] == [H100, A100]
    assert [gpu.device for gpu in stated("gpu:a100=2").gpus] == ["1", "2"]
    assert stated("gpu=0").gpus == () and len(stated("cpu=1").gpus) == 3
    assert [(g.device, g.kind) for g in stated("gpu:b200=2").gpus] == [("3", "b200"), ("4", "b200")]
    assert "asks for 3 cores, this machine (by MARIN_CAPACITY) has 2" in Allocator(stated("cpu=2")).why_never(
        ResourceConfig.with_cpu(cpu=3)
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("cpus=4", "'cpus=4': there is no 'cpus'; did you mean 'cpu'?"),
        ("cpu=0", "expected a whole number from 1, got '0'"),
        ("cpu", "write NAME=AMOUNT"),
        ("ram=lots", "not an amount of memory: 'lots'"),
        ("gpu=one", "expected a whole number from 0, got 'one'"),
        ("custom:x=many", "expected a number"),
        ("tpu=1", "there is no 'tpu'; did you mean 'tpu:TYPE'?"),
    ],
)
def test_a_statement_that_cannot_be_read_is_an_error(text, message):
    with pytest.raises(ValueError, match="MARIN_CAPACITY=") as raised:
        Capacity.of_this_machine(environ={"MARIN_CAPACITY": text})
    assert message in str(raised.value)
