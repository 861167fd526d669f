"""The running TransferQueue of the trainer's tests."""

from tests.trainer.conftest import queue

__all__ = ["queue"]
