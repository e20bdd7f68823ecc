"""A machine whose cable is pulled, in short; `python -m tests.cluster` does it longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.namespaces import SHORT, NoNamespacesError, run_namespaces
from tests.support.pg import NoPostgresError


@pytest.mark.postgres
def test_a_machine_that_was_cut_off_carries_on_and_nothing_counts_twice(tmp_path: Path) -> None:
    try:
        print(run_namespaces(tmp_path, scale=SHORT))
    except (NoNamespacesError, NoPostgresError) as error:
        pytest.skip(str(error))
