"""Is the plugin loaded, in this process and in Ray's workers? verl hides what a plugin raises.

Nothing of this package that registers itself with verl is imported here: what is found, verl's own import has loaded.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from verl_setpo.doctor.check import Check, sentence

ESTIMATORS = ("set_loo", "poly_epo", "grpo_div", "set_rl")
REINSTALL = "Reinstall verl-setpo: pip install -e . in its repository, or pip install verl-setpo."
POLICY = "VERL_USE_EXTERNAL_PLUGINS"
"""verl's variable: auto, none, or the names of the plugins to load."""
START_S = 120.0


def plugin_here() -> Iterator[Check]:
    """After `import verl` in this process, whose command line is not that of a run."""
    words, sys.orig_argv = sys.orig_argv, sys.orig_argv[:1]  # the plugin would read our KEY=VALUE words as a run's
    try:
        cause = why_not_loaded()
    finally:
        sys.orig_argv = words
    yield _judged("plugin", cause, "verl loads it")


def why_not_loaded() -> str | None:
    """None where verl knows our estimators after its import, else why it does not."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    if all(name in ADV_ESTIMATOR_REGISTRY for name in ESTIMATORS):
        return None
    policy = os.environ.get(POLICY, "auto").strip()
    if policy.lower() != "auto" and "verl_setpo" not in policy.split(","):
        return f"{POLICY}={policy}"
    points = [point for point in entry_points(group="verl.plugins") if point.name == "verl_setpo"]
    if not points:
        return "it has no entry point in the group verl.plugins"
    try:
        points[0].load()
    except (Exception, SystemExit) as error:  # which verl swallowed
        return sentence(error)
    return "no cause found"


def _judged(name: str, cause: str | None, found: str) -> Check:
    if cause is None:
        return Check(name, "ok", found)
    cure = f"Unset {POLICY}, or add verl_setpo to it." if cause.startswith(POLICY) else REINSTALL
    return Check(name, "fail", f"verl did not load it ({cause})", cure)


def config_groups() -> Iterator[Check]:
    """Whether Hydra sees our search path."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    found = any(plugin.__name__ == "VerlSetpoSearchPath" for plugin in Plugins.instance().discover(SearchPathPlugin))
    text = "Hydra finds +set_rl and +platform" if found else "not on Hydra's search path: +set_rl would be ignored"
    yield Check("config groups", "ok" if found else "fail", text, "" if found else REINSTALL)


def plugin_in_ray(cluster: str | None, environment: Mapping[str, str]) -> Iterator[Check]:
    """A task in a real Ray that imports verl: one worker of a Ray of our own, or one on each node of a running cluster.

    Args:
        cluster: address of the cluster that a run here would join, such as auto; None where it would start one.
        environment: variables that the run gives Ray's workers.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if ray.is_initialized():
        raise ValueError("Ray runs in this process already, and is not ours to end.")
    joins = cluster is not None
    small: dict[str, Any] = {"address": "local", "include_dashboard": False, "num_cpus": 1, "num_gpus": 0}
    ray.init(
        **({"address": cluster} if joins else small),
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        runtime_env={"env_vars": dict(environment)},
    )
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
        remote: Any = ray.remote(why_not_loaded)
        tasks = {
            node["NodeID"]: remote.options(
                num_cpus=0 if joins else 1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote()
            for node in nodes
        }
        bad = []
        for node in nodes:
            where = f"on {node['NodeManagerAddress']}: " if joins else ""
            try:
                found = _judged("Ray worker", ray.get(tasks[node["NodeID"]], timeout=START_S), "")
            except ray.exceptions.GetTimeoutError:
                cure = "Look at `ray status`: has the node a CPU free?"
                found = Check("Ray worker", "fail", f"no worker answered within {START_S:g} s", cure)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                found = Check("Ray worker", "fail", sentence(cause or error), REINSTALL)
            if found.status != "ok":
                bad.append(replace(found, found=f"{where}{found.found}"))
        count = f"each of {len(nodes)} nodes" if joins else "a worker"
        yield from bad or [Check("Ray worker", "ok", f"Ray {ray.__version__}: verl loads the plugin in {count}")]
    finally:
        ray.shutdown()
