"""The shapes of TPU slices."""

import pytest

from marin.cluster.tpu import tpu_slice


@pytest.mark.parametrize(
    "kind, chips, hosts, chips_per_host",
    [
        ("v2-8", 4, 1, 4),
        ("v4-8", 4, 1, 4),
        ("v4-16", 8, 2, 4),
        ("v4-128", 64, 16, 4),
        ("v5p-8", 4, 1, 4),
        ("v5p-64", 32, 8, 4),
        ("v5litepod-1", 1, 1, 1),
        ("v5litepod-4", 4, 1, 4),
        ("v5litepod-8", 8, 1, 8),
        ("v5litepod-16", 16, 4, 4),
        ("v6e-8", 8, 1, 8),
        ("v6e-256", 256, 64, 4),
    ],
)
def test_hosts_and_chips_follow_from_the_type(kind, chips, hosts, chips_per_host):
    shape = tpu_slice(kind)
    assert (shape.num_chips, shape.num_hosts, shape.chips_per_host) == (chips, hosts, chips_per_host)
    assert shape.head_resource == f"TPU-{kind}-head"


@pytest.mark.parametrize("kind", ["v4", "v4-7", "v4-0", "v4-20", "v6e-10", "v9-8", "h100", "v4-16-spot"])
def test_a_type_that_does_not_exist_is_refused(kind):
    with pytest.raises(ValueError, match=repr(kind)):
        tpu_slice(kind)
