"""Whether the kernel killed something for memory: a counter of the process's own control group, read before and after.

A process killed for memory looks like any other that was killed. The counter tells the two apart, except that a job
killed by hand while another of the same group ran out of memory is taken for one that ran out, too.
"""

import os


def oom_kills(root: str = "/") -> int | None:
    """Kills for want of memory so far in this process's control group (else the machine); None where none are counted.

    `root` is where the files of the system are found.
    """
    for path in (*_counters(root), os.path.join(root, "proc/vmstat")):
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    name, _, number = line.partition(" ")
                    if name == "oom_kill":
                        return int(number)
        except (OSError, ValueError):
            continue
    return None


def _counters(root: str) -> list[str]:
    """Where the control groups of this process, version 2 and version 1, keep their counters."""
    try:
        with open(os.path.join(root, "proc/self/cgroup"), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    groups = os.path.join(root, "sys/fs/cgroup")
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        # a container sees its own group at the top, whatever its path is called outside
        for folder in (group.strip("/"), ""):
            if controllers == "":
                found.append(os.path.join(groups, folder, "memory.events"))
            elif "memory" in controllers.split(","):
                found.append(os.path.join(groups, "memory", folder, "memory.oom_control"))
    return found
