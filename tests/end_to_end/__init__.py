import pytest

# Their checks show the values that differ, as those of the tests do.
pytest.register_assert_rewrite("tests.end_to_end.faulty_run", "tests.end_to_end.planned_judge")
