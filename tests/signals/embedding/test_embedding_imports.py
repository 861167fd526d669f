"""What an import costs, and what it does not need."""

from __future__ import annotations

import subprocess
import sys


def test_embedders_are_imported_without_verl_ray_and_the_packages_of_their_kinds():
    """An endpoint needs no sentence-transformers, a local model no openai."""
    code = (
        "import sys, verl_setpo.signals.embedding.local; "
        "heavy = 'verl', 'ray', 'openai', 'sentence_transformers', 'transformers'; "
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
