"""What a release says of itself: one version and date everywhere, and an environment that is pinned whole."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import padim_bench

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = (ROOT / "reproduce" / "requirements.txt").read_text(encoding="utf-8")
ASKED = [Requirement(each) for each in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["video"])]
SYSTEMS = [("Linux", "linux", "x86_64"), ("Linux", "linux", "aarch64"), ("Darwin", "darwin", "arm64")]
SYSTEMS += [("Windows", "win32", "AMD64")]


def _entries() -> list[tuple[Requirement, list[str]]]:
    """Each pinned package with its hashes, comments left out."""
    lines = [line for line in PINNED.splitlines() if not line.lstrip().startswith("#")]
    found = []
    for entry in "\n".join(lines).replace("\\\n", "").splitlines():
        package, *hashes = entry.split("--hash=")
        found.append((Requirement(package.strip()), [each.strip() for each in hashes]))
    return found


def _applying(python: str, system: str, platform: str, machine: str) -> dict[str, list[Requirement]]:
    """What an installer takes there, by name."""
    where = default_environment() | {"platform_system": system, "sys_platform": platform, "platform_machine": machine}
    where |= {"python_version": python, "python_full_version": f"{python}.1"}
    taken = dict[str, list[Requirement]]()
    for package, _ in _entries():
        if package.marker is None or package.marker.evaluate({**where, "extra": ""}):
            taken.setdefault(canonicalize_name(package.name), []).append(package)
    return taken


def test_every_pinned_package_has_one_version_and_hashes() -> None:
    entries = _entries()
    assert len(entries) > len(ASKED)
    for package, hashes in entries:
        (version,) = package.specifier
        assert (version.operator, package.url) == ("==", None)
        assert "*" not in version.version
        assert hashes, package
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes), package


@pytest.mark.parametrize("system", SYSTEMS, ids=" ".join)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14", "3.15"])
def test_what_the_project_asks_for_is_pinned_once_within_its_bounds(python: str, system: tuple[str, str, str]) -> None:
    taken = _applying(python, *system)
    assert [name for name, packages in taken.items() if len(packages) != 1] == []
    for asked in ASKED:
        ((version,),) = [package.specifier for package in taken.get(canonicalize_name(asked.name), [])]
        assert asked.specifier.contains(version.version), f"{asked}: {version.version}, so run `tox -e pin`"


def test_what_is_pinned_names_no_address_no_folder_and_no_option_of_an_installer() -> None:
    assert "/" not in PINNED
    assert "\\" not in PINNED.replace("\\\n", "\n")
    assert "@" not in PINNED
    options = [line for line in PINNED.splitlines() if line.lstrip().startswith("-")]
    assert {line.split("=")[0].strip() for line in options} == {"--hash"}


def test_the_citation_is_of_this_version_and_its_date() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.findall(r"^## ([0-9.]+) \(([0-9-]+)\)$", changes, re.MULTILINE)[0]
    assert version == PROJECT["version"] == padim_bench.__version__
    for work in (cited, cited["preferred-citation"]):
        assert (str(work["version"]), str(work["date-released"])) == (version, date)
        assert work["title"] == cited["title"]
        assert work["authors"] == [{"name": each["name"]} for each in PROJECT["authors"]]
        assert work["license"] == PROJECT["license"]
