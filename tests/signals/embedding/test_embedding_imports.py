"""What an import costs, and what it does not need."""

from __future__ import annotations

import subprocess
import sys


def test_signals_are_imported_without_verl_ray_and_the_packages_of_local_models():
    """Each reward worker imports them, and the check of a config before Ray starts."""
    code = (
        "import sys, verl_setpo.signals.embedding.local; "
        "heavy = 'verl', 'ray', 'sentence_transformers', 'transformers'; "
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
