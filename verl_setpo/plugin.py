"""The entry point of the group `verl.plugins`: verl imports this module in every process that imports verl.

verl swallows what a plugin raises, so nothing here may fail for a reason that a user must know.
"""

import sys

import verl  # noqa: F401  (first: a vLLM worker may import this module before verl, whose import then completes here)

from verl_setpo import platforms, preflight

preflight.check_command_line(sys.orig_argv)
platforms.register()

# Imported for their registrations with verl.
from verl_setpo.trainer import estimators, modes, reward_manager  # noqa: E402, F401
