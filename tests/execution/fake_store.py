"""A store in memory with a clock that tests turn and a process that they kill at any operation."""

import copy
import json
from collections.abc import Iterator, Sequence

from marin.execution.status import State, StepPaths, read_state
from marin.execution.store import Item


class Killed(BaseException):
    """The process died here: nothing after this happened."""


class FakeStore:
    """Keeps all that `marin.execution.store.Store` promises, and is not a disk."""

    is_local = False
    fsync = False
    single_runner = False

    def __init__(self, prefix: str = "fake://store") -> None:
        self.prefix = prefix
        self.now = 0.0  # seconds on the store's clock
        self.files: dict[str, tuple[bytes, float]] = {}
        self.kill_at = 0  # dies before this write, counted from 1; 0: lives
        self.num_writes = 0

    def copy(self) -> "FakeStore":
        other = copy.copy(self)
        other.files = dict(self.files)
        other.kill_at = other.num_writes = 0
        return other

    def _write(self, path: str, data: bytes | None) -> None:
        self.num_writes += 1
        if self.num_writes == self.kill_at:
            raise Killed
        if data is None:
            self.files.pop(path, None)
        else:
            self.files[path] = (data, self.now)

    def prepare(self) -> None:
        pass

    def read(self, root: str) -> State | None:
        path = StepPaths(root).state
        return read_state(self.files[path][0], path, root) if path in self.files else None

    def compare_and_swap(
        self, root: str, expected: State | None, new: State, *, durable: bool = True, archive: bool = False
    ) -> bool:
        current = self.read(root)
        if (current and current.nonce) != (expected and expected.nonce):
            return False
        if archive and expected is not None:
            self._write(StepPaths(root).history(expected), expected.to_json())
        self._write(StepPaths(root).state, new.to_json())
        return True

    def get(self, path: str) -> bytes | None:
        return self.files[path][0] if path in self.files else None

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._write(path, data)

    def put_json(self, path: str, value: object) -> None:
        self.put(path, json.dumps(value).encode())

    def create(self, path: str, data: bytes) -> bool:
        if path in self.files:
            return False
        self._write(path, data)
        return True

    def open_log(self, path: str) -> "_Log":
        return _Log(self, path)

    def items(self, folder: str) -> list[Item]:
        inner = [path[len(folder) + 1 :] for path in self.files if path.startswith(f"{folder}/")]
        names = {path.partition("/")[0]: "/" in path for path in inner}
        return [Item(name, is_folder) for name, is_folder in sorted(names.items())]

    def delete(self, path: str) -> None:
        if path in self.files:
            self._write(path, None)

    def delete_tree(self, folder: str) -> None:
        for path in sorted(path for path in self.files if path.startswith(f"{folder}/")):
            self._write(path, None)

    def sizes(self, root: str, paths: Sequence[str]) -> list[int | None]:
        return [len(self.files[f"{root}/{p}"][0]) if f"{root}/{p}" in self.files else None for p in paths]

    def tree(self, folder: str) -> Iterator[tuple[str, int]]:
        for path, (data, _) in list(self.files.items()):
            if path.startswith(f"{folder}/"):
                yield path[len(folder) + 1 :], len(data)

    def upload(self, local_path: str, path: str) -> None:
        with open(local_path, "rb") as file:
            self.put(path, file.read())

    def download(self, path: str, local_path: str) -> None:
        if path not in self.files:
            raise FileNotFoundError(path)
        with open(local_path, "wb") as file:
            file.write(self.files[path][0])

    def age_s(self, path: str) -> float | None:
        times = [time for name, (_, time) in self.files.items() if name == path or name.startswith(f"{path}/")]
        return self.now - max(times) if times else None


class _Log:
    def __init__(self, store: FakeStore, path: str) -> None:
        self._store, self._path, self._text = store, path, b""

    def write(self, line: bytes) -> None:
        self._text += line

    def close(self) -> None:
        self._store.put(self._path, self._text)
