"""One process at a time trains in a folder.

The claim is a lock of the operating system on the folder itself, so it leaves no file, and it is gone with the process,
however that ends. It holds between the processes of a machine, and between machines where their file system locks
across them; where it has no locks at all nothing is claimed and nothing refused. (Steps have leases besides.)
"""

import fcntl
import os
from pathlib import Path


class FolderClaim:
    """A claim to a folder, from `take` to the end of the `with` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def take(self) -> None:
        """Claim the folder, if it is there and not claimed yet. ValueError where another process has it."""
        if self._descriptor is not None or not self._folder.is_dir():
            return
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(
                f"another process trains in {self._folder} now, and two would write over each other. Nothing was "
                "changed. Wait until it is done or stop it, or give this run another output_path."
            ) from None
        except OSError:  # a file system without locks
            pass
        self._descriptor = descriptor

    def __enter__(self) -> "FolderClaim":
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
