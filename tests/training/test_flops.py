"""MFU: only from a known peak."""

from types import SimpleNamespace

import jax
import pytest

from marin.training import flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12)],
)
def test_a_device_is_known_by_the_start_of_its_name(kind, peak):
    assert flops._peak(kind) == peak


def test_the_peak_of_a_cpu_is_unknown():
    assert flops._peak("cpu") is None
    assert flops.peak_flops_per_second(jax.devices()) is None


def test_the_peak_is_that_of_the_devices_that_take_part():
    h100, unknown = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3"), SimpleNamespace(device_kind="cpu")
    assert flops.peak_flops_per_second([h100] * 3) == 3 * 989e12
    assert flops.peak_flops_per_second([h100, unknown]) is None
