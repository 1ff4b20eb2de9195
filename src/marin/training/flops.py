"""Model FLOPs utilization: how much of what the device could do the model's own arithmetic used.

    MFU = tokens a second * FLOPs a token / (peak FLOPs a second of one device * number of devices)

FLOPs a token are those of forward and backward with attention counted in full (the masked half too), a multiplication
and an addition as two, recomputation not counted: `LmConfig.flops_per_token`. Peaks are the makers' figures for dense
matrix products in bfloat16, whatever dtype the run computes in. For a device that is not in the table, such as any
CPU, MFU is unknown, and then it is not shown.
"""

from collections.abc import Iterable
from typing import Any

PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Start of the name of a device kind -> dense bfloat16 operations a second; the first that matches counts."""


def peak_flops_per_second(devices: Iterable[Any]) -> float | None:
    """Of these jax devices together; None where one is not in the table."""
    total = 0.0
    for device in devices:
        peak = _peak(device.device_kind)
        if peak is None:
            return None
        total += peak
    return total


def _peak(kind: str) -> float | None:
    return next((peak for name, peak in PEAK_FLOPS.items() if kind.startswith(name)), None)
