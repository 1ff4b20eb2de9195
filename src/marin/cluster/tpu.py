"""How many hosts and chips a TPU type has.

The number in a type's name counts tensor cores for the generations with two of them on a chip, and chips for the
others. Source: the "accelerator types" of Google's Cloud TPU documentation; Ray 2.60 keeps the same table in
`ray._private.accelerators.tpu`.
"""

import re
from dataclasses import dataclass

_CORES_PER_CHIP = {"v2": 2, "v3": 2, "v4": 2, "v5p": 2, "v5litepod": 1, "v6e": 1}
_CHIPS_PER_HOST = 4
_LARGEST_SINGLE_HOST = {"v5litepod": 8, "v6e": 8}  # chips; these generations also come as one host of 1, 4 or 8


@dataclass(frozen=True, kw_only=True)
class TpuSlice:
    """The shape of one slice."""

    type: str  # like "v4-16"
    num_chips: int  # in the whole slice
    num_hosts: int  # machines
    chips_per_host: int  # what each of them offers as the resource TPU

    @property
    def head_resource(self) -> str:
        """The resource that Ray gives to the first host of every slice of this type."""
        return f"TPU-{self.type}-head"


def tpu_slice(tpu_type: str) -> TpuSlice:
    """The shape of a slice of this type; ValueError says which types there are.

    >>> tpu_slice("v4-16").num_hosts, tpu_slice("v5litepod-16").num_hosts, tpu_slice("v6e-8").num_hosts
    (2, 4, 1)
    """
    match = re.fullmatch(r"(v\d+[a-z]*)-(\d+)", tpu_type)
    if match is None or match[1] not in _CORES_PER_CHIP:
        raise ValueError(
            f"no TPU type {tpu_type!r}: write a generation ({', '.join(_CORES_PER_CHIP)}) and a size, like 'v4-16'"
        )
    generation, size = match[1], int(match[2])
    num_chips, rest = divmod(size, _CORES_PER_CHIP[generation])
    if num_chips and not rest and num_chips <= _LARGEST_SINGLE_HOST.get(generation, _CHIPS_PER_HOST):
        return TpuSlice(type=tpu_type, num_chips=num_chips, num_hosts=1, chips_per_host=num_chips)
    if not num_chips or rest or num_chips % _CHIPS_PER_HOST:
        unit = "tensor cores" if _CORES_PER_CHIP[generation] == 2 else "chips"
        raise ValueError(
            f"TPU type {tpu_type!r}: {size} {unit} do not fill hosts of {_CHIPS_PER_HOST} chips; a host has "
            f"{_CHIPS_PER_HOST * _CORES_PER_CHIP[generation]} {unit}"
        )
    return TpuSlice(
        type=tpu_type, num_chips=num_chips, num_hosts=num_chips // _CHIPS_PER_HOST, chips_per_host=_CHIPS_PER_HOST
    )
