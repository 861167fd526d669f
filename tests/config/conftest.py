"""Inputs that a run can name."""

from __future__ import annotations

import pytest


@pytest.fixture
def there(tmp_path) -> list[str]:
    """Overrides that name inputs which are there, on the CPU."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "train.parquet").touch()
    return [
        f"data.train_files={tmp_path}/train.parquet",
        f"data.val_files=['{tmp_path}/train.parquet']",
        f"actor_rollout_ref.model.path={tmp_path}/model",
        "trainer.device=cpu",
    ]
