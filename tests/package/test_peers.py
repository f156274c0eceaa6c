"""The suite that measures us beside others, as far as it goes without them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from padim_bench.errors import PadimBenchError
from padim_bench.machine.features import instructions, native_half
from padim_bench.padim.backbones import create_backbone
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.records.files import to_json
from padim_bench.records.sealed import sealed
from tests.peers import __main__ as peers
from tests.peers import distance, fit, inputs, machines, reference, report, scripts, theirs, worker
from tests.peers.measure import _judge, _judge_by_values, _side, better, measure
from tests.peers.rows import HALF, STRATEGIES, Contender, Row, Target, all_rows
from tests.peers.worker import once, told
from tests.spoil import edited, flipped, outcomes, ruined, spoilt

N, D, GRID = 7, 5, 3


def test_the_script_and_the_reference_and_our_float64_agree() -> None:
    train, images = (inputs.embeddings(n, D, GRID, seed) for n, seed in ((N, 0), (2, 1)))
    exact = reference.squared_distances(train.flatten(2), images.flatten(2), theirs.EPSILON).sqrt()
    script = scripts.distances(images.double().numpy(), scripts.fit(train.double().numpy(), theirs.EPSILON)).reshape(
        2, -1
    )
    ours = fit_gaussians(
        fit.our_moments(train, "float64"), epsilon=theirs.EPSILON, strategy="cholesky", storage="float64"
    )
    np.testing.assert_allclose(script, exact, rtol=1e-9)
    squared = ours.squared_distances(ours.embedding.select([images.double()]))
    np.testing.assert_allclose(squared.sqrt(), exact, rtol=1e-9)


def test_our_untrained_weights_fill_a_model_as_anomalib_cuts_it() -> None:
    cut = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
    whole = create_backbone("resnet18", "random", fold=False)
    theirs.load(cut, whole.model.state_dict())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = cut.eval()(whole._prepare(images))
    for ours, same in zip(whole(images), found, strict=True):
        torch.testing.assert_close(same, ours, rtol=1e-4, atol=1e-5)


def test_the_scripts_maps_are_the_references() -> None:
    distances = torch.rand(2, 6, 6, dtype=torch.float64)
    exact = reference.anomaly_maps(distances, 24, sigma=4.0, border="reflect")
    np.testing.assert_allclose(scripts.maps(distances.numpy(), 24, 4.0), exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "index"),
    [
        ("script-fit-d100", {"n": N, "d": D, "grid": GRID}, None),
        ("script-score-d100", {"n": N, "d": D, "grid": GRID, "batch": 2, "border": "reflect"}, None),
        ("distance-d550-b8-t2", {"n": N, "d": D, "grid": GRID, "batch": 2, "border": "mirror"}, 2),
        ("distance-d550-b8-t2", {"n": N, "d": D, "grid": GRID, "batch": 2, "border": "mirror"}, 3),
        ("embedding-b16-t1", {"batch": 2, "d": 100, "grid": 4}, 1),
        ("pro", {"metric": "pro", "tied": False, "maps": 8, "side": 40}, 2),
        ("pro-ties", {"metric": "pro", "tied": True, "maps": 8, "side": 40}, 3),
        ("auroc-ties", {"metric": "auroc", "tied": True, "maps": 8, "side": 40}, 0),
        ("auroc", {"metric": "auroc", "tied": False, "maps": 8, "side": 40}, 2),
    ],
)
def test_a_row_measures_and_compares(name: str, size: dict[str, Any], index: int | None) -> None:
    row = next(row for row in all_rows() if row.name == name)
    for contender in row.contenders if index is None else [row.contenders[index]]:
        answer = once({"task": row.task, "size": size, "values": True, "contender": vars(contender)})
        assert answer["status"] == "ok"
        assert answer["difference"]["right"], answer


def test_every_row_is_named_once_and_can_be_sent_to_a_process() -> None:
    for quick in (False, True):
        rows = all_rows(quick=quick)
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            assert json.loads(json.dumps(row.size)) == row.size
            names = [c.name for c in row.contenders]
            assert len(set(names)) == len(names)
            assert row.baseline in names
            assert all(not t.ours or t.ours in names for t in row.targets)
            assert row.call_limit_s <= row.timeout_s
            assert row.mode != "alternate" or len({c.threads for c in row.contenders}) == 1
            assert row.values_like is None or row.values_like[0] in names


def result(status: str, seconds: float, *, peer: bool, name: str) -> dict[str, Any]:
    side = _side(Contender(name, peer, 1, {}))
    side |= {"samples_s": [seconds, 3 * seconds, 2 * seconds], "samples_bytes": [4_000_000]}
    side |= {"difference": {"max_abs": 0.5, "max_rel": 1e-7, "right": status == "right"}}
    side |= {"least_work": {"flops": 1e9, "dtype": "float32", "bytes": 10}}
    _judge(side)
    return side


@pytest.fixture
def results() -> dict[str, Any]:
    where = {"cpu": "a CPU", "cpu_count": 2, "os": "Linux", "python": "3.12.0", "commit": "c" * 40, "dirty": False}
    row = {
        "name": "fit",
        "work": "a fit",
        "size": {"d": 100},
        "mode": "fresh",
        "baseline": "theirs",
        "targets": [{"measure": "s", "at_least": 3.0, "what": "fit", "ours": ""}],
        "notes": ["A note."],
        "sides": [
            result("right", 8.0, peer=True, name="theirs"),
            result("right", 2.0, peer=False, name="ours"),
            result("wrong", 0.5, peer=False, name="fast and wrong"),
        ],
        "finished": "2026-01-01T00:00:00+00:00",
        "load_average": {"before": [0.1, 0, 0], "after": [0.2, 0, 0]},
        "provenance": {"environment": where | {"versions": {"torch": "2"}}, "peers": {"anomalib": "2"}, "quick": False},
    }
    rates = {"status": "ok", "read_bytes_per_s": 1e9, "float32_flops_per_s": 1e9, "float64_flops_per_s": 1e9}
    rates |= {"cholesky_flops_per_s": 2e9}
    return {"schema": report.SCHEMA, "rates": {"1": rates}, "rows": {"fit": row}}


def test_reports_are_the_same_from_what_was_read_back(results: dict[str, Any], tmp_path: Path) -> None:
    report.write(tmp_path, results)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(first) == ["peers.csv", "peers.md", "results.json"]
    report.write(tmp_path, report.read(tmp_path))
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "in float64; batched Cholesky factors of them 2." in first["peers.md"].decode()
    assert "| ours | right | 4 | 2 | 4.0x | 4.0 | 1.0x | 1.0e-07 | 5.0e-01 | 1 | 4.0x |" in first["peers.md"].decode()


def test_spoilt_results_are_refused_in_a_line(results: dict[str, Any], tmp_path: Path) -> None:
    draw, folder = random.Random(9), tmp_path / "here"
    path = folder / "results.json"
    report.write(folder, results)

    def pages() -> tuple[str, str, str]:
        found, beside = report.read(folder), machines.read_all(tmp_path)
        return machines.to_markdown(beside), report.to_markdown(found), report.to_csv(found)

    expected, raw, whole = pages(), path.read_bytes(), report.read(folder)
    damaged = {f"flip {i}": spoilt(path, flipped(raw, draw), pages) for i in range(50)}
    damaged |= {f"{c[:30]!r}": spoilt(path, c, pages) for c in ruined(raw)}
    assert outcomes(damaged, expected, str(path))["refused"] == len(damaged)
    texts = (sealed(to_json(edited(whole, draw)) + "\n") for _ in range(200))
    resealed = {f"edit {i}": spoilt(path, text.encode(), pages) for i, text in enumerate(texts)}
    assert outcomes(resealed, expected, str(path), changes=True)["refused"] > 50


def test_no_target_is_reached_by_a_wrong_result_or_against_one(results: dict[str, Any]) -> None:
    ((_, name, best),) = report.judged(results["rows"]["fit"])
    assert (name, best) == ("ours", pytest.approx(4.0))
    assert "| fit | ours | 4.0x | 3x | yes |" in report.to_markdown(results)
    results["rows"]["fit"]["sides"][0]["status"] = "wrong"
    ((_, name, best),) = report.judged(results["rows"]["fit"])
    assert best is None


def test_what_is_asked_of_half_precision_is_reached_by_it_alone(results: dict[str, Any]) -> None:
    row = results["rows"]["fit"]
    row["targets"][0]["storages"] = ["float16", "bfloat16"]
    for side, storage in zip(row["sides"][1:], ("float32", "bfloat16"), strict=True):
        side["options"] = {"storage": storage}
    ((_, _, best),) = report.judged(row)
    assert best is None  # the one in bfloat16 is wrong
    row["sides"][2]["status"] = "right"
    ((_, name, best),) = report.judged(row)
    assert (name, best) == ("fast and wrong", pytest.approx(16.0))


def test_the_floor_of_half_precision_counts_its_bytes_and_the_better_rate() -> None:
    size = {"n": 209, "d": 550, "grid": 8, "batch": 1}
    work = {
        storage: distance.least_work({"who": "ours", "strategy": "whitening", "storage": storage}, size)
        for storage in ("float32", "bfloat16")
    }
    whole, half = work["float32"], work["bfloat16"]
    assert whole is not None
    assert half is not None
    means_and_images = 64 * 4 * 550 * 2
    assert whole["bytes"] - means_and_images == 2 * (half["bytes"] - means_and_images)
    rates = {"status": "ok", "read_bytes_per_s": 1e12, "float32_flops_per_s": 1e9, "bfloat16_flops_per_s": 4e9}
    seconds = half["flops"] / 1e9
    side = {"threads": 1, "least_work": half}
    assert report.floor_seconds(side, {"1": rates}) == pytest.approx(seconds / 4)
    assert report.floor_seconds(side, {"1": rates | {"bfloat16_flops_per_s": 1e8}}) == pytest.approx(seconds)
    del rates["bfloat16_flops_per_s"]  # not native there
    assert report.floor_seconds(side, {"1": rates}) == pytest.approx(seconds)


def test_runs_are_judged_by_a_named_contender() -> None:
    sides = {name: _side(Contender(name, name == "b", 1, {})) for name in "abc"}
    for name, value in (("a", 0.9), ("b", 0.901), ("c", 0.8)):
        sides[name] |= {"status": "right", "difference": {"values": {"auroc": value}, "right": True}}
    _judge_by_values(sides, ("a", 0.01))
    assert [side["status"] for side in sides.values()] == ["right", "right", "differs"]


@pytest.mark.parametrize("mode", ["fresh", "alternate"])
def test_a_contender_that_never_returns_is_ended_and_the_others_go_on(mode: str) -> None:
    contenders = [Contender(name, True, 1, {"seconds": s}) for name, s in (("a", 0.01), ("hangs", 1000), ("b", 0.02))]
    row = Row("trial", "trial", "waits", {}, mode, tuple(contenders), "a", 2, memory=False, call_limit_s=2)
    said: list[str] = []
    found = {side["name"]: side for side in measure(row, said.append)["sides"]}
    assert [side["status"] for side in found.values()] == ["right", "did not return", "right"]
    assert found["hangs"]["message"] == "hangs did not return within 2 s"
    assert [len(side["samples_s"]) for side in found.values()] == [2, 0, 2]
    assert any("hangs did not return" in line for line in said)


def test_a_contender_whose_batched_inverse_never_returns_is_not_started(lu_that: Callable[[str], None]) -> None:
    lu_that("hangs")
    contenders = [Contender("inverts", True, 1, {"seconds": 1000}, inverts=20), Contender("a", True, 1, {"seconds": 0})]
    row = Row("trial", "trial", "waits", {}, "fresh", tuple(contenders), "a", 1, memory=False)
    found = [side["message"] for side in measure(row, lambda _: None)["sides"]]
    assert found == ["batched torch.linalg.inv of 8 matrices of side 20 did not return within 10 s", ""]


def of_machine(results: dict[str, Any], cpu: str, **about: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(results))
    for row in found["rows"].values():
        row["provenance"]["environment"] |= {"cpu": cpu, **about}
    return found


@pytest.mark.parametrize(
    ("cpu", "cores", "expected"),
    [
        ("AMD EPYC", 2, "amd-epyc-2-cores"),
        ("Intel(R) Xeon(R) Processor @ 2.70GHz", 4, "intel-xeon-4-cores"),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", 1, "intel-core-i7-8700-1-core"),
        ("../a/\N{LATIN SMALL LETTER E WITH ACUTE}", None, "a"),
        ("", None, "unknown-processor"),
    ],
)
def test_a_machine_s_folder_is_named_after_its_processor_and_cores(cpu: str, cores: int | None, expected: str) -> None:
    assert machines.folder_name({"cpu": cpu, "cpu_count": cores}) == expected


def test_machines_stand_side_by_side_each_with_its_ratio_and_what_it_misses(
    results: dict[str, Any], tmp_path: Path
) -> None:
    fast = of_machine(results, "Fast", instructions=["AMX-BF16"], native_half=["bfloat16"], mkl=None)
    hung, other = of_machine(results, "Hung"), of_machine(results, "Other")
    fast["rows"]["fit"]["targets"][0]["at_least"] = 5.0
    hung["rows"]["fit"]["sides"][0]["status"] = "did not return"
    other["rows"]["fit"]["targets"][0]["what"] = "another fit"
    for name, one in (("fast-2-cores", fast), ("hung-2-cores", hung), ("other-2-cores", other)):
        report.write(tmp_path / name, one)
    assert peers.main(["--pages", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "peers.md").read_text()
    assert "| Work | target | Fast, 2 cores | Hung, 2 cores | Other, 2 cores |" in text
    assert "| fit | 3x and 5x | 4.0x by ours; below 5x | theirs: did not return | \N{EN DASH} |" in text
    assert "| another fit | 3x | \N{EN DASH} | \N{EN DASH} | 4.0x by ours |" in text
    assert "  - [Fast, 2 cores](fast-2-cores/peers.md): instructions for half precision and int8 AMX-BF16;" in text
    assert "- Machine: Fast; instructions for half precision" in (tmp_path / "fast-2-cores" / "peers.md").read_text()
    assert "Machine:" not in (tmp_path / "hung-2-cores" / "peers.md").read_text()


def test_two_machines_of_one_name_are_told_apart_by_their_folders(results: dict[str, Any]) -> None:
    assert "| a, 2 cores (one) | a, 2 cores (two) |" in machines.to_markdown({"one": results, "two": results})


def test_the_committed_pages_are_made_of_the_committed_results(tmp_path: Path) -> None:
    committed = Path(__file__).parents[2] / "results" / "peers"
    for path in committed.glob("*/results.json"):
        shutil.copytree(path.parent, tmp_path / path.parent.name, ignore=shutil.ignore_patterns("peers.*"))
    assert peers.main(["--pages", "--results", str(tmp_path)]) == 0
    made, there = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (tmp_path, committed))
    assert made == there


def test_rows_of_another_machine_are_not_added_to(results: dict[str, Any]) -> None:
    here = {"cpu": "a CPU", "cpu_count": 2, "instructions": ["AMX-BF16"]}
    machines.check_same(Path("peers"), results, here)  # of which rows from before say nothing
    for there in (of_machine(results, "b CPU"), of_machine(results, "a CPU", instructions=[])):
        with pytest.raises(PadimBenchError, match=r"holds rows of another machine .* --machine"):
            machines.check_same(Path("peers"), there, here)


def test_what_lies_where_folders_of_machines_should_is_named(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ["--only", "script-fit-d100", "--results", str(tmp_path)]
    assert peers.main(["--machine", "../x", *only]) == 2
    assert "--machine '../x': use lower-case" in capsys.readouterr().err
    assert peers.main(["--pages", "--results", str(tmp_path)]) == 2
    assert "no results of any machine" in capsys.readouterr().err
    report.write(tmp_path, results)
    assert peers.main(only) == 2
    assert "is of one machine: move it into a folder of its own" in capsys.readouterr().err


def test_rows_measured_later_keep_the_earlier_ones_and_new_contenders_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def suite(target: float, *more: Contender) -> list[Row]:
        one = Contender("one", True, 1, {"seconds": 0})
        goals = (Target("s", target, "waiting"),)
        return [
            Row(name, "trial", "waits", {}, "fresh", contenders, "one", 1, goals, memory=False)
            for name, contenders in (("a", (one,)), ("b", (one, *more)), ("c", (one,)))
        ]

    def measured(*arguments: str) -> dict[str, Any]:
        assert peers.main(["--quick", "--machine", "here", "--results", str(tmp_path), *arguments]) == 0
        return report.read(tmp_path / "here")

    monkeypatch.setattr(peers, "THREADS", (1,))
    monkeypatch.setattr(peers, "all_rows", lambda *_, **__: suite(2))
    first = measured("--only", "a,b")
    monkeypatch.setattr(peers, "all_rows", lambda *_, **__: suite(3, Contender("two", False, 1, {"seconds": 0})))
    second = measured("--only", "b,a")
    assert list(first["rows"]) == list(second["rows"]) == ["a", "b"]
    assert second["rows"]["a"].pop("targets")[0]["at_least"] == 3
    assert first["rows"]["a"].pop("targets")[0]["at_least"] == 2
    assert first["rows"]["a"] == second["rows"]["a"]
    assert [side["name"] for side in second["rows"]["b"]["sides"]] == ["one", "two"]
    assert second["rows"]["a"]["provenance"]["environment"]["instructions"] == instructions()
    for threads, rates in first["rates"].items():
        assert all(second["rates"][threads][key] >= rate for key, rate in rates.items() if key != "status")


def test_rates_measured_twice_are_the_better_ones() -> None:
    one, two = {"status": "ok", "read": 3.0, "old": 1.0}, {"status": "ok", "read": 2.0, "new": 4.0}
    assert better(None, two) == two
    assert better(one, two) == {"status": "ok", "read": 3.0, "old": 1.0, "new": 4.0}
    assert better(one, {"status": "timeout"}) == one
    assert better({"status": "timeout"}, two) == two


def test_a_missing_peer_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = metadata.version

    def version(name: str) -> str:
        if name == "anomalib":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    assert peers.main(["--results", str(tmp_path / "peers")]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1
    assert "anomalib is not installed" in said.err
    assert not (tmp_path / "peers").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--only", "nope"], "no row 'nope'"), (["--only", ""], "no row"), (["--strategies", "nope"], "choose from")],
)
def test_unknown_names_are_refused(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(arguments) == 2
    assert part in capsys.readouterr().err


def test_rows_are_listed_without_any_peer(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--list", "--only", "fit,pro"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "fit-d100",
        "fit-d550",
        "pro",
        "pro-ties",
    ]


def test_what_failed_is_told_without_paths() -> None:
    assert told(OSError("no /home/user/x.png here\nand more")) == "OSError: no <path> here"


def test_default_strategies_are_of_the_registry() -> None:
    from padim_bench.padim.strategies import strategy_names

    assert set(STRATEGIES) <= set(strategy_names())


def test_rates_are_of_this_machine_and_given_back_its_threads() -> None:
    before = torch.get_num_threads()
    found = worker.rates({"size": {"bytes": 1 << 16, "side": 32}, "threads": 1})
    half = {key.removesuffix("_flops_per_s") for key in found} & set(HALF)
    assert half == set(native_half() or ())
    assert found.pop("status") == "ok"
    assert set(report.BATCHED) < set(found)
    assert all(value > 1e6 for value in found.values())
    assert torch.get_num_threads() == before
