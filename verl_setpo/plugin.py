"""The entry point of the group `verl.plugins`: verl imports this module in every process that imports verl."""

import verl  # noqa: F401  (first: a vLLM worker may import this module before verl, whose import then completes here)

from verl_setpo import platforms

platforms.register()
