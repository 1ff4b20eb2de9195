"""The process between marin and a program that a model wrote: gives up what it may, then becomes the program.

Run by path under `python -I -S` (see `code_execution`), so it imports the standard library alone. Arguments: folder,
number of the pipe for the report, the user to become if it is root, seconds, bytes of memory, bytes of a file,
processes, and then what isolation is required. The report's first line says which isolation there is (or "refused" and
what was not to be had), "end" says that the program ran to its end, and the last, "code" and a number, what it
left with, below 0 the signal that ended it.
"""

import ctypes
import os
import pwd
import resource
import signal
import sys

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY = 442, -100, 0x8000, 1
_FOLDER_BYTES, _FOLDER_FILES = 16 * 2**20, 4096
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
# Where sockets are, such as those of a desktop session or of containers, and files of people. Their homes come besides.
_HIDDEN = ("/run", "/var/run", "/tmp", "/var/tmp", "/dev/shm", "/home")

# Runs the program and reports its end. It holds the pipe, which the program's own processes do not get.
_RUNNER = """
import os, sys
path, report, network = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
os.set_inheritable(report, False)
if not network:
    sys.modules["socket"] = sys.modules["_socket"] = None
sys.argv[:] = [path]
with open(path, encoding="utf-8", errors="surrogatepass") as file:
    program = compile(file.read(), path, "exec")
exec(program, {"__name__": "__main__", "__file__": path})
os.write(report, b"end\\n")
"""


def main() -> None:
    folder, report, nobody, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    memory, file_bytes, processes = (int(word) for word in sys.argv[5:8])
    required = sys.argv[8:]
    libc = ctypes.CDLL(None, use_errno=True)
    interpreter = os.path.realpath(sys.executable)
    if os.geteuid() == 0:
        interpreter = _reachable(libc, interpreter, os.path.join(os.path.dirname(folder), "python"))
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)
        libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self stays root's, and the map below cannot be written
    had = _unshare(libc)
    missing = [name for name in required if name not in had]
    if missing:
        _refuse(report, missing)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os.write(report, f"\ncode {os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if "files" in had and not (_hide(libc, folder, interpreter) and _only_writable(libc, folder)):
        had.remove("files")
        if "files" in required:
            _refuse(report, ["files"])
    os.write(report, (" ".join(had) + "\n").encode())
    if "processes" not in had:
        processes += _processes_of_user()
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # a second between the limits of the processor: at the soft one comes SIGXCPU, which tells what happened
        last = limit + 1 if kind == resource.RLIMIT_CPU and limit + 1 <= hard % (1 << 64) else limit
        resource.setrlimit(kind, (limit, last))
    os.set_inheritable(report, True)
    words = [os.path.join(folder, "program.py"), str(report), "1" if "network" in had else "0"]
    os.execv(interpreter, [interpreter, "-I", "-S", "-B", "-c", _RUNNER, *words])


def _reachable(libc: ctypes.CDLL, interpreter: str, place: str) -> str:
    """The interpreter at a place where the user that root becomes finds it: its own may be in root's home."""
    prefix = os.path.realpath(sys.base_prefix)
    if not interpreter.startswith(prefix + os.sep) or libc.unshare(_NEWNS) != 0:
        return interpreter
    os.mkdir(place)
    done = (
        libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) == 0
        and libc.mount(prefix.encode(), place.encode(), None, ctypes.c_ulong(_MS_BIND), None) == 0
    )
    return os.path.join(place, os.path.relpath(interpreter, prefix)) if done else interpreter


def _unshare(libc: ctypes.CDLL) -> list[str]:
    """Namespaces of its own, as a user who is mapped to itself; which isolation that gives: all or none."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC) != 0:
        return []
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:
        return ["network", "processes"]  # which need no map
    return ["network", "processes", "files"]


def _hide(libc: ctypes.CDLL, folder: str, interpreter: str) -> bool:
    """Put empty folders where sockets and the files of people are, with nothing in them but what the program needs.

    A socket on disk can be connected to from another network and through a mount that is read-only. Whether it worked.
    """
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0:
        return False
    top = os.path.dirname(folder)
    hidden: list[str] = []
    for path in sorted({*_HIDDEN, os.path.dirname(top), *_homes()}):
        path = os.path.realpath(path)
        if path != "/" and os.path.isdir(path) and not any(_is_in(path, above) for above in hidden):
            hidden.append(path)
    place = os.path.join(top, "python")  # of `_reachable`
    is_there = _is_in(interpreter, place)
    needed = [folder, place] if is_there else [folder, os.path.dirname(interpreter), os.path.realpath(sys.base_prefix)]
    kept = {path: os.open(path, os.O_PATH) for path in needed if any(_is_in(path, above) for above in hidden)}
    try:
        for path in hidden:
            if libc.mount(b"tmpfs", path.encode(), b"tmpfs", ctypes.c_ulong(0), b"mode=755,size=1m") != 0:
                return False
        for path, was in kept.items():
            os.makedirs(path, exist_ok=True)
            source = f"/proc/self/fd/{was}".encode()
            if libc.mount(source, path.encode(), None, ctypes.c_ulong(_MS_BIND | _MS_REC), None) != 0:
                return False
    except OSError:
        return False
    finally:
        for was in kept.values():
            os.close(was)
    os.chdir(folder)
    return True


def _homes() -> list[str]:
    """The home of the user, as it is now and was before it stopped being root."""
    homes = []
    for user in (os.getuid(), 0):
        try:
            homes.append(pwd.getpwuid(user).pw_dir)
        except KeyError:
            continue
    return homes


def _is_in(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")


def _only_writable(libc: ctypes.CDLL, folder: str) -> bool:
    """Make every mount read-only but the folder; whether that worked."""

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]

    def change(path: str, flags: int, attributes: Attributes) -> int:
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        where = ctypes.c_int(_AT_FDCWD)
        return libc.syscall(
            ctypes.c_long(_MOUNT_SETATTR), where, path.encode(), ctypes.c_uint(flags), ctypes.byref(attributes), size
        )

    return (
        _in_memory(libc, folder)
        and change("/", _AT_RECURSIVE, Attributes(attr_set=_RDONLY)) == 0
        and change(folder, 0, Attributes(attr_clr=_RDONLY)) == 0
        and _moved_into(folder)
    )


def _in_memory(libc: ctypes.CDLL, folder: str) -> bool:
    """Put a folder of bounded size, with the program in it, over the folder; whether that worked."""
    path = os.path.join(folder, "program.py")
    with open(path, "rb") as file:
        program = file.read()
    options = f"mode=755,size={_FOLDER_BYTES + len(program)},nr_inodes={_FOLDER_FILES}".encode()
    if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", ctypes.c_ulong(0), options) != 0:
        return False
    with open(path, "wb") as file:
        file.write(program)
    return True


def _moved_into(folder: str) -> bool:
    os.chdir(folder)  # the folder as it was before lies below the mount, and is read-only
    return os.access(folder, os.W_OK)


def _processes_of_user() -> int:
    """Processes and threads that its user has now."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _refuse(report: int, missing: list[str]) -> None:
    os.write(report, f"refused {' and '.join(missing)}\n".encode())
    os._exit(3)


if __name__ == "__main__":
    main()
