"""From a step of a plan and a lease on it to an attempt: all that whoever carries it out must know.

The config's placeholders are replaced here, and the parts of the record that are known before the function runs are
written down. Where the store is not a disk, paths are those of copies in the scratch folder of the machine that will do
the work.
"""

import time
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from marin.cluster.retry import Retry
from marin.execution.attempt import Attempt, Fetch, fetch_of
from marin.execution.fingerprint import code_of
from marin.execution.graph import Node, resolve_config
from marin.execution.lease import Lease
from marin.execution.plan import Plan
from marin.execution.record import inputs_of, readable, utc
from marin.execution.scratch import work_place
from marin.execution.status import INVALID, SUCCEEDED, State
from marin.execution.store import Store


class Dispatcher:
    """Makes the attempts of one run."""

    def __init__(self, plan: Plan, store: Store, run_id: str, user: str, surroundings: Mapping[str, Any]) -> None:
        self._plan = plan
        self._store = store
        self._run_id = run_id
        self._user = user
        self._surroundings = surroundings

    def attempt(
        self,
        node: Node,
        lease: Lease,
        used: Mapping[str, State],
        *,
        retry: Retry | None = None,
        tries: tuple[int, int] = (0, 0),
    ) -> tuple[Attempt, BaseException | None]:
        """The attempt for which `lease` was taken; with an error if its config cannot be made.

        `used`: the registers of the outputs that it uses (`used_states`). `retry`: whether a failure is followed by
        another attempt (None: only that of a network), after `tries`, the failures and interruptions of this run so
        far.
        """
        step, started = node.step, time.time()
        work_dir, log_dir = work_place(self._store, lease.paths, lease.state)
        config, code, fetches, error = None, {}, (), None
        try:
            roots, fetches = self._data_roots(node, used)
            code = code_of(step.fn, step.config)
            config = resolve_config(node, self._plan.graph, work_dir, roots, prefix=self._store.prefix)
        except Exception as trouble:
            error = trouble
        attempt = Attempt(
            name=step.name,
            digest=node.digest,
            fn=step.fn,
            config=config,
            publish=step.publish,
            work_dir=work_dir,
            log_dir=log_dir,
            fetches=fetches,
            edges=(*node.deps, *node.pseudo),
            output_type=step.output_type,
            record=self._record(node, used, config, code, started),
            started=started,
            timeout_s=step.timeout_s,
            retry=retry or Retry(),
            num_failures=tries[0],
            num_preemptions=tries[1],
        )
        return attempt, error

    def variables_of(self, node: Node, attempt: Attempt) -> dict[str, str]:
        """Environment variables that a step's function finds."""
        return {
            **self.variables_of_run,
            "MARIN_STEP_NAME": node.step.name,
            "MARIN_STEP_DIGEST": node.digest,
            "MARIN_PROGRESS_FILE": attempt.progress_path,
        }

    @property
    def variables_of_run(self) -> dict[str, str]:
        """Those of them that are the same for all steps."""
        return {"MARIN_PREFIX": self._store.prefix, "MARIN_RUN_ID": self._run_id}

    def used_states(self, node: Node, states: Mapping[str, State]) -> dict[str, State]:
        """The registers of the outputs that a step uses, by digest: those that it waits for, and others if they exist.

        `states`: the registers of the committed steps.
        """
        used = {digest: states[digest] for digest in node.deps}
        for digest in node.pseudo:
            state = states.get(digest) or self._store.read(self._plan.paths(self._plan.graph[digest]).root)
            if state is not None and state.status in (SUCCEEDED, INVALID):
                used[digest] = state
        return used

    def _data_roots(self, node: Node, used: Mapping[str, State]) -> tuple[dict[str, str], tuple[Fetch, ...]]:
        roots: dict[str, str] = {}
        fetches: dict[str, Fetch] = {}
        for digest in (*node.deps, *node.pseudo):
            other = self._plan.graph[digest]
            paths, state = self._plan.paths(other), used.get(digest)
            if state is None:  # a step that is not waited for: where its output is, or will appear
                roots[digest] = paths.root if other.step.publish == "inplace" else paths.data_link
                continue
            if self._store.is_local:
                roots[digest] = paths.data_root(state)
                continue
            fetch = fetch_of(self._store, paths, state)
            fetches[digest], roots[digest] = fetch, fetch.folder
        return roots, tuple(fetches.values())

    def _record(
        self, node: Node, used: Mapping[str, State], config: Any, code: Mapping[str, Any], started: float
    ) -> dict[str, Any]:
        step, graph = node.step, self._plan.graph
        record = {
            "format": 1,
            "digest": node.digest,
            "recipe": node.recipe,
            "name": step.name,
            "version": step.version,
            "description": step.description,
            "tags": sorted(step.tags),
            "fn": node.fn_ref,
            "code_version": step.code_version,
            "code_policy": step.code_policy,
            **code,
            "publish": step.publish,
            "canonical": node.canonical,
            "config_resolved": readable(config),
            "inputs": [
                {
                    "digest": digest,
                    "attempt": used[digest].attempt if digest in used else None,
                    "root_digest": (used[digest].record or {})["root_digest"] if digest in used else None,
                    "name": graph[digest].step.name,
                    "path": graph[digest].path,
                    "sub": sub,
                    "pseudo": pseudo,
                }
                for digest, sub, pseudo in inputs_of(node.canonical, node.deps, node.pseudo)
            ],
            "started": utc(started),
            "resources": readable(step.resources) if is_dataclass(step.resources) else None,
            "env": dict(self._surroundings),
            "run_id": self._run_id,
            "user": self._user,
        }
        if node.unmarked_digest is not None:
            record["unmarked_digest"] = node.unmarked_digest
        consented = [i["name"] for i in record["inputs"] if i["digest"] in self._plan.consented]
        if consented:
            record["tainted_inputs"] = consented
        return record
