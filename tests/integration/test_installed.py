"""What is published: the wheel and the sdist hold what they must, and the wheel alone reproduces a table."""

from __future__ import annotations

import ast
import csv
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import padim_bench
from padim_bench.demo import images

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = f"padim_bench-{padim_bench.__version__}"
INFO = f"{NAME}.dist-info"

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling, which builds them, is not installed")


def _build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def _files(*folders: str) -> set[str]:
    """What lies below folders of the checkout, from its root, without what Python and the system leave there."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    names = (path.relative_to(ROOT) for path in found)
    return {name.as_posix() for name in names if "__pycache__" not in name.parts and name.suffix != ".pyc"}


def test_the_wheel_holds_the_package_with_specs_and_the_papers_numbers_and_nothing_else(wheel: Path) -> None:
    specs = {f"padim_bench/_{name}" for name in _files("reproduce")}
    about = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    with ZipFile(wheel) as archive:
        assert set(archive.namelist()) == _files("padim_bench") | specs | about
    assert {"padim_bench/_reproduce/table3.toml", "padim_bench/_reproduce/paper/table3.csv"} <= specs
    assert {"padim_bench/report/report.html.jinja", "padim_bench/py.typed"} <= _files("padim_bench")


def test_the_sdist_holds_tests_and_texts_and_no_results_nor_caches(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    texts = {path.name for path in ROOT.glob("*.md")} | {"LICENSE", "CITATION.cff"}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= texts
    settings = {"pyproject.toml", "tox.ini", ".gitignore", "PKG-INFO"}
    assert names == _files("padim_bench", "reproduce", "tests", "docs") | texts | settings


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = _build(tmp_path / NAME, "wheel", tmp_path / "wheel")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_what_the_package_imports_is_what_it_asks_for() -> None:
    optional = PROJECT["optional-dependencies"]
    asked = {canonicalize_name(Requirement(d).name) for d in (*PROJECT["dependencies"], *optional["video"])}
    asked |= {canonicalize_name(Requirement(d).name) for d in optional["dask"]}
    imported = set[str]()
    for path in Path(padim_bench.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    others = imported - sys.stdlib_module_names - {"padim_bench"}
    providers = metadata.packages_distributions()
    assert {name for name in others if not asked & {canonicalize_name(p) for p in providers.get(name, ())}} == set()


@pytest.mark.skipif(find_spec("ensurepip") is None, reason="this Python has no pip of its own to install with")
def test_in_an_empty_environment_the_wheel_reproduces_a_table_of_the_demo(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dependencies come from where the tests run: a line of a .pth file makes no use of the .pth files found there,
    # so that the checkout, which is installed by one, is out of reach.
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, capture_output=True, timeout=120)
    folders = {"base": str(environment), "platbase": str(environment)}
    scripts, modules = (Path(sysconfig.get_path(kind, "venv", folders)) for kind in ("scripts", "purelib"))
    theirs = [folder for folder in sys.path if Path(folder).name in {"site-packages", "dist-packages"}]
    (modules / "dependencies.pth").write_text("\n".join(theirs), encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PADIM_BENCH_", "PYTHON", "PIP_"))}
    kept |= {"GIT_DIR": os.devnull, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}

    def called(name: str, *arguments: object) -> str:
        command = [str(scripts / name), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = ("-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--no-index", "--no-deps")
    called("python", *pip, "--ignore-installed", wheel)
    where = called("python", "-c", "import padim_bench; print(padim_bench.__file__)").strip()
    assert Path(where).resolve().is_relative_to(environment.resolve())
    for count, few in (("TRAIN", 3), ("TEST_GOOD", 2), ("PER_DEFECT", 1)):
        monkeypatch.setattr(images, count, few)
    results = tmp_path / "results"
    images.make_demo(results / "demo" / "data")  # fewer images than it would draw, and never draws over

    said = called(
        "padim-bench", *("reproduce", "table5", "--categories", "gear", "--seeds", 1, "--threads", 1),
        *("--results", results),
    )  # fmt: skip
    assert re.search(r"^table5: \[DEMO DATA, NOT MVTEC AD\] \[UNTRAINED RANDOM WEIGHTS\]", said, re.MULTILINE)
    with (results / "demo" / "tables" / "table5.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (found,) = [row for row in rows if row["model"] == "R18-Rd100" and row["row"] == "gear"]
    assert found["ours"]
    assert (results / "demo" / "report.html").is_file()
