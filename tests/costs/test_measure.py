"""What is asked of fresh processes, kept, and tried again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from padim_bench.costs import measure
from padim_bench.costs.fresh import in_fresh_process
from padim_bench.costs.measure import ProfileSettings, measure_costs, measure_growth, plan_profiles
from padim_bench.costs.work import Work
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.padim.backbones import Backbone
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import Weights, resolve_weights
from padim_bench.records.costs import CostRecord, MeasuredCost, to_dict
from padim_bench.records.files import to_json
from padim_bench.records.measurements import read_measurement
from padim_bench.runs.runner import Interrupted
from tests.drawn_records import answered

SETTINGS = ProfileSettings(batch_sizes=(2,), n_images=3)


def test_features_that_a_backbone_lacks_are_left_out_and_said(weights: Weights) -> None:
    narrow, said, wide = resolve_weights("resnet10t", "random"), [], 448
    shared = PaDiMConfig(seed=5)
    models = plan_profiles(shared, [narrow, weights], [100, wide, None, 100], ["cholesky"], ["float32"], said.append)
    found = {(m.backbone, m.n_features) for m, _ in models}
    assert len(found) == len(models)
    assert {n for arch, n in found if arch == "resnet18"} == {100, None}  # all of them is one spelling
    assert {m.seed for m, _ in models if m.n_features is None} == {0}
    widest = max(wide, *(sum(Backbone(one).channels) for one in (narrow, weights)))
    with pytest.raises(PadimBenchError, match=f"--n-features {widest + 1}: these backbones have at most {widest}"):
        plan_profiles(shared, [narrow, weights], [widest + 1], ["cholesky"], ["float32"])


def test_a_cost_from_a_fresh_process_is_kept_and_not_measured_again(
    category: Category, weights: Weights, model: PaDiMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    (first,) = measure_costs(category, [(model, weights)], SETTINGS, tmp_path, on_message=said.append)
    assert isinstance(first.record, MeasuredCost)
    assert first.record.asked.batch_sizes == (1, 2)  # 1 always is
    assert not first.resumed
    assert first.path.name.startswith("part-r18-rd12-cholesky-float32-")
    assert str(category.root) not in first.path.read_text()
    monkeypatch.setattr(measure, "in_fresh_process", lambda *_, **__: pytest.fail("measured"))
    (again,) = measure_costs(category, [(model, weights)], SETTINGS, tmp_path, on_message=said.append)
    assert again == replace(first, resumed=True)
    assert "measured before" in said[-1]
    monkeypatch.setenv("KMP_BLOCKTIME", "7")  # another setting is another measurement
    with pytest.raises(pytest.fail.Exception):
        measure_costs(category, [(model, weights)], SETTINGS, tmp_path)


def test_a_measurement_that_fails_costs_no_other_and_is_tried_again(
    category: Category, weights: Weights, model: PaDiMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [(replace(model, strategy=name), weights) for name in ("cholesky", "woodbury", "whitening")]
    deaths, interrupting, said = {"woodbury"}, True, list[str]()

    def fake(_module: str, asked: dict[str, Any], *_: object, **__: object) -> dict[str, Any]:
        strategy = Work.from_dict(asked).config.model.strategy
        if strategy in deaths:
            raise PadimBenchError(f"{category.root}/part: ended by SIGKILL, most likely for want of memory")
        if strategy == "whitening" and interrupting:
            raise KeyboardInterrupt
        return json.loads(to_json(to_dict(answered(asked))))

    monkeypatch.setattr(measure, "in_fresh_process", fake)
    with pytest.raises(Interrupted, match="2 of 3 runs are finished and kept"):
        measure_costs(category, models, SETTINGS, tmp_path, on_message=said.append)
    assert any("FAILED: " in line and "SIGKILL" in line for line in said)
    assert len(list(tmp_path.rglob("*.*"))) == 2
    interrupting, said = False, []
    deaths.clear()
    again = measure_costs(category, models, SETTINGS, tmp_path, on_message=said.append)
    assert [one.resumed for one in again] == [True, False, False]
    assert "measured before" in said[0]
    assert [one.record.status for one in again] == ["ok"] * 3
    assert [read_measurement(one.path, CostRecord) for one in again] == [one.record for one in again]
    assert all(one.resumed for one in measure_costs(category, models, SETTINGS, tmp_path))
    # Other settings are another measurement.
    deaths.add("woodbury")
    (other,) = measure_costs(category, models[1:2], replace(SETTINGS, n_images=4), tmp_path)
    assert other.record.status == "failed"
    assert other.record.reason == "factory/part: ended by SIGKILL, most likely for want of memory"


def test_growth_that_takes_too_long_is_on_record_as_failed(
    category: Category, weights: Weights, model: PaDiMConfig, tmp_path: Path
) -> None:
    hurried = replace(SETTINGS, timeout_s=0.5)
    (one,) = measure_growth(category, [(model, weights)], hurried, tmp_path)
    assert one.record.status == "failed"
    assert one.record.reason == "measuring growth part R18-Rd12 cholesky float32 took more than 0.5 s"
    assert one.record.points == ()
    assert one.path.parent.name == "measurements"


def test_too_few_images_are_refused(category: Category, weights: Weights, model: PaDiMConfig, tmp_path: Path) -> None:
    for few in (replace(category, train=category.train[:1]), replace(category, test=())):
        with pytest.raises(PadimBenchError, match="a profile needs at least 2 and 1"):
            measure_costs(few, [(model, weights)], SETTINGS, tmp_path)


VICTIM = """
import os, signal, sys, time
from padim_bench import PadimBenchError
from padim_bench.costs.fresh import answer
def work(asked):
    if asked['end'] == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    if asked['end'] == 'wait':
        open(asked['file'], 'w').write(str(os.getpid()))
        time.sleep(120)
    if asked['end'] == 'complain':
        print('more', file=sys.stderr)
        raise PadimBenchError('there is no such folder')
    print('noise')
    return {'asked': asked}
answer(work)
"""


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cost_test_victim.py").write_text(VICTIM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "cost_test_victim"


def test_how_a_process_ended_is_said(victim: str) -> None:
    assert in_fresh_process(victim, {"end": "well"}, "it", timeout_s=100) == {"asked": {"end": "well"}}
    with pytest.raises(PadimBenchError, match="measuring it: there is no such folder"):
        in_fresh_process(victim, {"end": "complain"}, "it", timeout_s=100)
    with pytest.raises(PadimBenchError, match="measuring it: ended by SIGKILL, most likely for want of memory"):
        in_fresh_process(victim, {"end": "die"}, "it", timeout_s=100)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_that_nobody_waits_for_ends(victim: str, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        "import sys\nfrom padim_bench.costs.fresh import in_fresh_process\n"
        "in_fresh_process(sys.argv[1], {'end': 'wait', 'file': sys.argv[2]}, 'it', timeout_s=100)"
    )
    with subprocess.Popen([sys.executable, "-c", code, victim, str(told)]) as parent:
        end = time.monotonic() + 60
        while not (told.exists() and told.read_text()) and time.monotonic() < end:
            time.sleep(0.1)
        orphan = psutil.Process(int(told.read_text()))
        parent.send_signal(signal.SIGKILL)
    orphan.wait(timeout=30)
    assert not orphan.is_running()
