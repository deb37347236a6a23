"""A few rounds of what ``python -m tests.integration.kills`` does many of."""

import pytest

from tests.integration.kills import kill_rounds


@pytest.mark.slow
@pytest.mark.timeout(900)  # of a busy machine
def test_what_is_killed_at_any_moment_ends_as_if_nobody_had_killed_it() -> None:
    # A study's driver and, as it goes on, all of it; a process of a preparation.
    assert kill_rounds(2, seed=70028) == []
