"""What a job asks of the machine it runs on.

Resources say how a step runs, never what it computes: they are left out of every identity, so moving a run from a
laptop to a larger machine re-runs nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """Number of bytes in "500m", "4g", "1.5Gi"; k, m, g, t are powers of 1000, ki, mi, gi, ti of 1024."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"not an amount of memory: {text!r}; write a number and a unit, like '500m', '4g' or '16Gi'")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """Resources of one job. Build it with `with_cpu`, `with_gpu` or `with_tpu`.

    >>> ResourceConfig.with_gpu("h100", count=8).device_count
    8
    """

    __unversioned__ = True  # read by the identity of a step: resources never enter it

    device: Literal["cpu", "gpu", "tpu"]  # kind of device the job computes on
    device_type: str | None = None  # which one, like "h100" or "v5p-8"; None: any
    device_count: int = 0  # accelerators (of a TPU: slices); 0 for a CPU job
    cpu: int = 1  # cores
    ram: str | None = None  # main memory like "16g"; None: no statement
    disk: str | None = None  # scratch space like "100g"; None: no statement
    preemptible: bool = False  # the machine may be taken away at any time, and the job is then tried again
    custom: Mapping[str, float] = field(default_factory=dict, hash=False)  # other resources by the cluster's names

    def __post_init__(self) -> None:
        if self.cpu < 1:
            raise ValueError(f"cpu must be at least 1 core, got {self.cpu}")
        if (self.device == "cpu") != (self.device_count == 0):
            raise ValueError(f"device_count must be 0 for a CPU job and positive otherwise, got {self}")
        for amount in (self.ram, self.disk):
            if amount is not None:
                parse_bytes(amount)
        for name, amount in self.custom.items():
            if not amount > 0:
                raise ValueError(f"custom resource {name!r} must be positive, got {amount}")

    @staticmethod
    def with_cpu(
        *, cpu: int = 1, ram: str | None = None, disk: str | None = None, preemptible: bool = False
    ) -> "ResourceConfig":
        """`cpu` cores of a machine without an accelerator."""
        return ResourceConfig(device="cpu", cpu=cpu, ram=ram, disk=disk, preemptible=preemptible)

    @staticmethod
    def with_gpu(
        gpu_type: str = "auto",
        count: int = 1,
        *,
        cpu: int = 1,
        ram: str | None = None,
        disk: str | None = None,
        preemptible: bool = False,
    ) -> "ResourceConfig":
        """`count` GPUs of one type ("auto": whatever there is)."""
        kind = None if gpu_type == "auto" else gpu_type
        return ResourceConfig(
            device="gpu", device_type=kind, device_count=count, cpu=cpu, ram=ram, disk=disk, preemptible=preemptible
        )

    @staticmethod
    def with_tpu(
        tpu_type: str,
        slice_count: int = 1,
        *,
        cpu: int = 1,
        ram: str | None = None,
        disk: str | None = None,
        preemptible: bool = True,
    ) -> "ResourceConfig":
        """`slice_count` slices of a TPU like "v4-128"; cores, memory and disk are those of each of its hosts."""
        return ResourceConfig(
            device="tpu",
            device_type=tpu_type,
            device_count=slice_count,
            cpu=cpu,
            ram=ram,
            disk=disk,
            preemptible=preemptible,
        )
