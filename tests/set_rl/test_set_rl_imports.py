"""The mathematics stands alone."""

import subprocess
import sys


def test_importing_set_rl_imports_neither_verl_nor_ray():
    code = (
        "import sys, verl_setpo.set_rl; "
        "print([name for name in ('verl', 'ray', 'omegaconf', 'hydra', 'vllm', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
