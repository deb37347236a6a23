"""A round of what ``python -m tests.integration.kills`` does many of."""

import pytest

from tests.integration.kills import kill_rounds


@pytest.mark.slow
def test_what_is_killed_at_any_moment_ends_as_if_nobody_had_killed_it() -> None:
    # A study's driver and, as it goes on, all of it. tests/data/store kills preparations.
    assert kill_rounds(1, seed=70028) == []
