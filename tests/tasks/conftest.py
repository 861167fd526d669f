"""What the tests of the tasks share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def environment_is_the_same_object() -> Iterator[None]:
    """`Dataset.map` of datasets, by which verl filters its data, puts a copy in the place of os.environ.

    What keeps the first one, as rich does to learn how wide a terminal is, then sees nothing that a later test sets.
    """
    before = os.environ
    yield
    os.environ = before  # noqa: B003 - the same object again
