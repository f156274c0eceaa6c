"""What a command says of warnings."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from padim_bench import compute_metrics
from padim_bench.cli.output import notes_said
from padim_bench.metrics.roc import detection_metrics


def test_what_this_package_warns_of_is_a_line_each_said_once_and_without_a_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with notes_said():
        warnings.simplefilter("always")
        for _ in range(2):
            compute_metrics(np.zeros(3, bool), np.arange(3.0))
    said = capsys.readouterr().err.splitlines()
    assert "padim-bench: note: image scores: only one class present; AUROC, AP and F1 are NaN" in said
    assert len(said) == len(set(said))
    assert all(line.startswith("padim-bench: note: ") for line in said)


def test_warnings_of_others_are_left_alone() -> None:
    with pytest.warns(UserWarning, match="of another"), notes_said():
        warnings.warn("of another", stacklevel=1)
    with pytest.warns(UserWarning, match="only one class"):  # outside of a command
        detection_metrics(np.zeros(3), np.zeros(3))
