"""How devices and processes share the work, as plain values; nothing here loads JAX."""

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


AUTOMATIC = "auto"


@dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """The processes that train together, one or more on each host; all are started with the same config.

    No part of a run's identity. Each field can be given by the environment too, which then differs from host to host
    while the config does not.
    """

    __unversioned__: ClassVar[bool] = True

    coordinator: str | None = None
    """Where the others find process 0, as `host:port` with a free port; "auto" lets JAX find all three out, as it can
    under SLURM, Open MPI and Kubernetes and on TPU pods. None: $MARIN_COORDINATOR_ADDRESS; without it a process trains
    alone."""
    num_processes: int | None = None
    """How many there are; None: $MARIN_NUM_PROCESSES."""
    process_id: int | None = None
    """Which of them this is, from 0; None: $MARIN_PROCESS_ID."""
    start_timeout_s: int = 300
    """How long to wait for the others to start."""
    lost_after_s: int = 60
    """A process that is silent for so long is lost, and all others end with an error."""

    def __post_init__(self) -> None:
        if self.start_timeout_s < 1 or self.lost_after_s < 1:
            raise ValueError(
                f"processes: start_timeout_s and lost_after_s are whole seconds, 1 or more; got "
                f"{self.start_timeout_s!r} and {self.lost_after_s!r}"
            )
        if self.coordinator not in (None, AUTOMATIC) and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(
                f"processes.coordinator is {self.coordinator!r}; expected host:port of process 0, like "
                f"10.0.0.1:4747, or '{AUTOMATIC}'"
            )
