"""The layer in verl: estimators, reward manager, trainer modes."""

import verl  # noqa: F401  (first: verl loads this package as its plugin, which must not meet a half-imported module)
