"""What a job may ask for."""

import pytest

from marin.cluster import ResourceConfig
from marin.cluster.resources import parse_bytes


def test_the_three_builders_say_what_they_ask_for():
    assert ResourceConfig.with_cpu(cpu=4, ram="8g").cpu == 4
    gpu = ResourceConfig.with_gpu("h100", count=8)
    assert (gpu.device, gpu.device_type, gpu.device_count) == ("gpu", "h100", 8)
    assert ResourceConfig.with_gpu().device_type is None
    tpu = ResourceConfig.with_tpu("v4-128")
    assert (tpu.device, tpu.device_type, tpu.device_count) == ("tpu", "v4-128", 1)


@pytest.mark.parametrize(
    "text, expected", [("500m", 500_000_000), ("4g", 4 * 10**9), ("1.5Gi", 3 * 2**29), ("17", 17), ("2TB", 2 * 10**12)]
)
def test_amounts_of_memory_are_read(text, expected):
    assert parse_bytes(text) == expected


def test_an_amount_without_meaning_is_refused_with_an_example():
    with pytest.raises(ValueError, match="'lots'.*like '500m'"):
        ResourceConfig.with_cpu(ram="lots")


def test_a_job_without_a_core_is_refused():
    with pytest.raises(ValueError, match="at least 1 core, got 0"):
        ResourceConfig.with_cpu(cpu=0)
