"""Tell the pages of reports that were written already that they must not be trusted.

A report is a committed output and is not changed. So a small script is put beside it, in the step's `.exec`, which the
page loads if it is there (`marin.report.render`), and which puts a banner on top. It works for pages that are opened
where they lie, on a disk; a page that was copied elsewhere knows nothing. The scripts repeat what the tombstones say:
they decide nothing, and are written anew whenever something is struck out or taken back.
"""

import contextlib
import json
import re

from marin.execution.catalog import StepEntry, steps_of
from marin.execution.invalidation import Taint
from marin.execution.outputs import outputs_of
from marin.execution.store import Store

_SCRIPT = re.compile(r"taint(-\S+)?\.js")


def write_banners(store: Store) -> None:
    """Put a script beside every output that is struck out or tainted, and take away those that no longer hold."""
    if not store.is_local:
        return
    taint = Taint(store)
    for step in steps_of(store):
        with contextlib.suppress(OSError):  # somebody else's folder: planning does not need the script
            _write(store, taint, step)


def _write(store: Store, taint: Taint, step: StepEntry) -> None:
    wanted: dict[str, bytes] = {}
    outputs = outputs_of(step)
    for output in outputs:
        trouble = taint.trouble(output.state)
        if trouble is None:
            continue
        script = f"marinTaint({json.dumps(f'{output.name} @{output.state.digest[:10]} was {trouble}')});\n".encode()
        wanted[step.paths.taint_script(output.state.attempt)] = script
        if output is outputs[0]:  # the `data` link shows the latest, while another attempt runs or after it failed
            wanted[step.paths.taint_script()] = script
    for item in store.items(step.paths.exec_dir):
        path = f"{step.paths.exec_dir}/{item.name}"
        if _SCRIPT.fullmatch(item.name) and path not in wanted:
            store.delete(path)
    for path, script in wanted.items():
        if store.get(path) != script:
            store.put(path, script, durable=False)
