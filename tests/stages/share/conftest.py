"""A calibration text for quantizing what is shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "The river ran past the mill, and the road with the river to the town. She sold 4 hinges — in vain! "


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about 3,000 tokens."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text("\n".join(f"{number}. {TEXT * 2}" for number in range(40)))
    return path
