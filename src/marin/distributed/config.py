"""How devices share the work, as plain values; nothing here loads JAX."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices as a grid of `replica` x `data` x `model`.

    No part of a run's identity: another grid gives the same losses but for the order in which sums are made, and a run
    goes on from its checkpoint on whatever devices there are.
    """

    __unversioned__: ClassVar[bool] = True

    replica: int = 1
    """Groups that hold a whole copy of the model each and meet once a step, to sum their gradients: slices with a slow
    network between them."""
    data: int | None = None
    """Devices in a group over which the rows of a batch are spread, and with `fsdp` the parameters too. None is all
    that the other two leave."""
    model: int = 1
    """Devices that share the heads, the width of the MLP and the vocabulary of each layer (tensor parallelism)."""
    fsdp: bool = True
    """Spread parameters, gradients and optimizer state along `data`, and gather each layer when it is used. False keeps
    a copy on each device (data parallelism)."""

    def __post_init__(self) -> None:
        for name in ("replica", "data", "model"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"mesh.{name} counts devices and must be 1 or more, got {value}")

    def shape(self, num_devices: int) -> tuple[int, int, int]:
        """(replica, data, model) on so many devices. ValueError, with the arithmetic, where they do not fit."""
        others = self.replica * self.model
        data = self.data
        if data is None:
            data, left = divmod(num_devices, others)
            if not data:
                raise ValueError(
                    f"mesh: replica {self.replica} x model {self.model} needs {others} devices, or a multiple of "
                    f"them, but there are {num_devices}. Make the mesh smaller, or run on more. (A CPU "
                    "counts as eight devices with XLA_FLAGS=--xla_force_host_platform_device_count=8.)"
                )
            if left:
                raise ValueError(
                    f"mesh: replica {self.replica} x model {self.model} = {others} does not divide the {num_devices} "
                    f"devices here: {data} * {others} = {data * others}. Choose replica and model so that it does."
                )
        if others * data > num_devices:
            raise ValueError(
                f"mesh: replica {self.replica} x data {data} x model {self.model} needs {others * data} devices, but "
                f"there are {num_devices}. Make the mesh smaller, or leave data out to take what there is."
            )
        return self.replica, data, self.model
