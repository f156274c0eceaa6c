"""What a machine multiplies natively is read from what the system, torch and MKL tell, and guessed nowhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim_bench.machine.environment import environment
from padim_bench.machine.features import (
    INSTRUCTIONS,
    features_line,
    instructions,
    instructions_told,
    mkl_kernel,
    mkl_told,
    native_half,
)

XEON = "fpu vme sse2 avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8 flush_l1d"
EPYC = "fpu vme sse2 avx2 avx512f avx_vnni avx512_bf16 avx512_vnni avx512_vp2intersect"
HEADER = (
    "MKL_VERBOSE oneMKL 2024.0 Update 2 Product build 20240605 for Intel(R) 64 architecture "
    "Intel(R) Architecture processors, Lnx 2.60GHz lp64 gnu_thread"
)


def cpuinfo(*processors: str) -> str:
    """As Linux on x86 writes it, one paragraph a processor."""
    return "\n".join(
        f"processor\t: {i}\nmodel name\t: A processor\nflags\t\t: {flags}\nvmx flags\t: amx_bf16\nbugs\t\t:\n"
        for i, flags in enumerate(processors)
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (XEON, ["AVX512-BF16", "AVX512-FP16", "AMX-BF16", "AMX-INT8", "AVX512-VNNI"]),
        (EPYC, ["AVX512-BF16", "AVX512-VNNI"]),
        ("fpu vme sse2 avx2 avx_vnni", []),  # VNNI of 256 bits is another one
    ],
)
def test_instructions_are_those_that_the_flags_name(flags: str, expected: list[str]) -> None:
    assert instructions_told(cpuinfo(flags, flags)) == expected


@pytest.mark.parametrize("text", ["", "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", "model name\t: flags\n"])
def test_without_flags_nothing_is_known(text: str) -> None:
    assert instructions_told(text) is None


@given(st.lists(st.sets(st.sampled_from([*INSTRUCTIONS.values(), "fpu", "avx2"])), min_size=1, max_size=5))
def test_a_machine_has_what_each_of_its_processors_has(processors: list[set[str]]) -> None:
    found = instructions_told(cpuinfo(*(" ".join(sorted(flags)) for flags in processors)))
    assert found == [name for name, flag in INSTRUCTIONS.items() if all(flag in flags for flags in processors)]


def test_mkl_is_known_by_its_own_first_line() -> None:
    product = "MKL_VERBOSE SGEMM(N,N,8,8,8,0x7ffc,0x5606,8,0x5606,8,0x7ffd,0x5607,8) 82.71us CNR:OFF Dyn:0 NThr:1"
    assert mkl_told(f"a warning\n{HEADER}\n{product}\n") == HEADER.removeprefix("MKL_VERBOSE ")
    assert mkl_told("a warning\n") is None
    assert mkl_told("") is None


@pytest.mark.parametrize(
    ("told", "short"),
    [
        ("Intel(R) Architecture processors", "oneMKL 2024.0 Update 2 for Intel(R) Architecture processors"),
        ("AVX-512 with INT8, BF16, and AMX", "oneMKL 2024.0 Update 2 for AVX-512 with INT8, BF16, and AMX"),
    ],
)
def test_of_mkl_s_line_its_version_and_kernel_are_shown(told: str, short: str) -> None:
    line = HEADER.removeprefix("MKL_VERBOSE ").replace("Intel(R) Architecture processors", told)
    assert features_line({"mkl": line}).endswith(f"; MKL: {short}")
    assert features_line({"mkl": "another MKL"}).endswith("; MKL: another MKL")


def test_the_line_says_what_is_there_what_is_not_and_what_is_unknown() -> None:
    known = {"instructions": ["AVX512-BF16"], "native_half": [], "cpu_capability": "AVX512", "mkl": None}
    assert features_line(known) == (
        "instructions for half precision and int8 AVX512-BF16; torch's kernels AVX512; "
        "oneDNN multiplies natively none; MKL: none"
    )
    assert features_line({}) == (
        "instructions for half precision and int8 unknown; torch's kernels unknown; oneDNN multiplies natively unknown"
    )


def test_this_machine_tells_the_same_in_runs_and_where_speed_is_measured() -> None:
    here = environment()
    assert here["instructions"] == instructions()
    assert here["native_half"] == native_half()
    assert set(here["instructions"] or ()) <= set(INSTRUCTIONS)
    assert "mkl" not in here  # a process of its own is too slow for a run
    assert json.loads(json.dumps(here)) == here


def test_mkl_is_asked_where_torch_has_it() -> None:
    found = mkl_kernel()
    assert (found is not None and "MKL" in found) == (environment()["blas"] == "mkl")
