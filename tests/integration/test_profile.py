"""``padim-bench profile`` from the command line: real processes, small images, untrained weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import CommandLine, Reply, assert_refused, contents, start, strings


def command(tiny: Path, results: Path, *more: object) -> tuple[object, ...]:
    chosen = ("--backbone", "resnet18", "--weights", "random", "--n-features", 10, "--strategy", "cholesky,diagonal")
    small = ("--batch-sizes", 2, "--n-images", 2, "--threads", 1, "--categories", "bottle")
    return ("profile", *chosen, *small, "--data", tiny, "--results", results, *more)


@pytest.fixture(scope="module")
def done(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reply, Path]:
    results = tmp_path_factory.mktemp("profile")
    process = start(*command(tiny, results, "--json"))
    out, err = process.communicate(timeout=600)
    return Reply(process.returncode, out, err), results


def test_each_configuration_is_measured_and_written_about(done: tuple[Reply, Path], tiny: Path) -> None:
    reply, results = done
    assert reply.code == 0, reply.err
    profiles = reply.document["profiles"]
    assert [(p["config"]["model"]["strategy"], p["status"], p["resumed"]) for p in profiles] == [
        ("cholesky", "ok", False),
        ("diagonal", "lossy", False),
    ]
    assert profiles[0]["metrics"]["pro"] is not None
    assert "UNTRAINED" in reply.err
    names = [p.relative_to(results).as_posix() for p in map(Path, reply.document["files"])]
    tables = [f"tables/profiles.{end}" for end in ("md", "csv", "tex")]
    figures = ["figures/pareto.svg", "figures/pareto.png"]
    assert names == tables + figures
    for name in names:
        assert (results / name).stat().st_size > 0
        assert str(tiny).encode() not in (results / name).read_bytes()
    index = (results / "README.md").read_text()
    assert all(f"]({name})" in index for name in names)
    kept = sorted((results / "profiles").glob("*.json"))
    assert [p.name.rpartition("-")[0] for p in kept] == [
        f"bottle-r18-rd10-{name}-float32" for name in ("cholesky", "diagonal")
    ]
    assert not any(str(tiny) in text for p in kept for text in strings(json.loads(p.read_text())))


def test_what_is_measured_is_not_measured_again(
    cli: CommandLine, done: tuple[Reply, Path], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(done[1])
    written = {name: content for name, (content, _) in before.items()}
    monkeypatch.setenv("KMP_BLOCKTIME", "7")  # another setting is another measurement
    monkeypatch.setattr("padim_bench.costs.measure.in_fresh_process", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(pytest.fail.Exception):
        cli(*command(tiny, done[1]))
    monkeypatch.delenv("KMP_BLOCKTIME")
    reply = cli(*command(tiny, done[1]))
    assert reply.code == 0, reply.err
    assert reply.err.count("measured before") == 2
    page = (done[1] / "tables" / "profiles.md").read_text()
    assert "| cholesky | float32 |" in page
    assert page not in reply.out
    assert len(reply.out.splitlines()) <= 4
    assert page in cli(*command(tiny, done[1]), "--print").out
    after = contents(done[1])
    assert {name: content for name, (content, _) in after.items()} == written
    assert all(after[name] == before[name] for name in before if name.startswith("profiles/"))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (("--categories", "bottle,grid"), "--categories"),
        (("--categories", "cable"), "no category 'cable'"),
        (("--n-features", "10,5000"), "--n-features 5000"),
        (("--n-features", "0"), "'0' is not between 1 and"),
        (("--strategy", "packed"), "--strategy packed: choose from"),
        (("--storage", "int8"), "--storage int8: choose from"),
        (("--batch-sizes", "1,x"), "'x' is not a whole number"),
        (("--seed", "-1"), "--seed: '-1'"),
        (("--seed", "0,1"), "--seed: profiles are of one drawing of channels"),
        (("--backbone", "resnet19"), "unknown backbone 'resnet19'"),
        (("--device", "abacus"), "device 'abacus'"),
    ],
)
def test_bad_input_is_one_line(
    cli: CommandLine, tiny: Path, tmp_path: Path, options: tuple[str, str], culprit: str
) -> None:
    reply = cli(*command(tiny, tmp_path), *options)
    if options[0] == "--n-features" and reply.err.startswith("resnet18: UNTRAINED"):
        reply = Reply(reply.code, reply.out, reply.err.partition("\n")[2])
    assert_refused(reply, culprit)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_missing_are_asked_for(cli: CommandLine, tiny: Path, tmp_path: Path, no_hub: None) -> None:
    chosen = ("--backbone", "resnet18.tv_in1k", "--weights", tmp_path)
    assert_refused(cli(*command(tiny, tmp_path), *chosen), "no weights resnet18.tv_in1k", "--weights")
