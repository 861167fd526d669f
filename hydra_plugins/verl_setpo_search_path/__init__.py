"""Puts verl_setpo's config groups on Hydra's search path, so that `+set_rl=...` works with verl's own entrypoint."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class VerlSetpoSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="verl_setpo", path="pkg://verl_setpo.config")
