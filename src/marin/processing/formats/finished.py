"""Whether a folder that the data engine writes is complete.

A run makes `_done/` first and `_funnel.json` last, and removes the latter before it changes anything. So a folder with
the one and without the other may lack rows, and whoever reads files asks here. It costs a look at each folder above the
files.
"""

import os
from collections.abc import Iterable

from marin.io.files import absolute, is_file, is_folder, parent

DONE_FOLDER = "_done"
FUNNEL = "_funnel.json"
BAD_FOLDER = "_bad"


def check_finished(folders: Iterable[str]) -> None:
    """ValueError where one of these folders is, or is in, the output of a run that has not ended, or not well."""
    seen: set[str] = set()
    for folder in sorted(set(folders)):
        place = absolute(folder)
        if BAD_FOLDER in place.split(os.sep):
            continue  # rows that were bad are there to be looked at, whatever became of the run
        while place not in seen:
            seen.add(place)
            if is_folder(os.path.join(place, DONE_FOLDER)):
                if not is_file(os.path.join(place, FUNNEL)):
                    raise ValueError(
                        f"{place}: the run that writes there has not finished, so rows may be missing; run it to its "
                        "end first"
                    )
                break
            place = parent(place)
