"""The kernels compile for an H100 (sm_90), products on its tensor cores, into what its shared memory holds.

No GPU is needed for that, and none runs them here: what they compute is shown by interpreting them.
"""

from __future__ import annotations

import pytest
from interpreted import needs_triton

MOST_SHARED_BYTES = 227 * 1024  # of one block of threads, compute capability 9.0
INTEGERS = {
    "runs_at": "*i32",
    "blocks_at": "*i32",
    "visits_at": "*i32",
    "source_at": "*i64",
    "stored_at": "*i8",
}
FLOATS = {"lse_at", "delta_at", "scale_at", "slopes_at", "places_at", "node_places_at"}
DOUBLES = {"mean_at", "variance_at", "frequency_at", "d_variance_at"}


@pytest.fixture(autouse=True)
def compiles_anew(tmp_path, monkeypatch):
    """Whatever an earlier run left in the user's cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel, **constants):
    """A kernel for bfloat16, compiled for sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in INTEGERS:
            return INTEGERS[name]
        if name.endswith("_at"):
            return "*fp32" if name in FLOATS else "*fp64" if name in DOUBLES else "*bf16"
        return "fp32" if name.startswith("scale") else "i32"

    signature = {name: kind(name) for name in kernel.arg_names}
    return triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants), target=GPUTarget("cuda", 90, 32)
    )


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "fall"),
    [
        (64, 0),
        *(pytest.param(*one, marks=pytest.mark.long) for one in ((32, 0), (128, 0), (64, 1), (128, 2))),
    ],
)
@pytest.mark.parametrize("name", ["_forward", "_backward_q", "_backward_keys"])
def test_attention_compiles_onto_tensor_cores(name: str, width: int, fall: int) -> None:
    from megakernels.pyramid_attention import triton as attention

    block_m, block_n = attention._sizes(width)
    asked = {"VISITS": 3} if name == "_backward_keys" else {}
    found = compiled(
        getattr(attention, name), GROUP=2, COLUMNS=4, D=width, BLOCK_D=width, BLOCK_M=block_m, BLOCK_N=block_n,
        WIDEN=False, FALL=fall, **asked,
    )  # fmt: skip
    assert found.metadata.shared <= MOST_SHARED_BYTES
    assert "wgmma.mma_async" in found.asm["ptx"] and found.asm["cubin"]


@needs_triton
def test_the_small_operations_compile() -> None:
    from megakernels.gather_entries import triton as gather
    from megakernels.gaussian_rope import triton as rope
    from megakernels.gist_pool import triton as pool

    for kernel, constants in (
        (rope._turn, {"HALF": 32, "BLOCK": 32, "HEADS": 8, "DIRECTION": 1}),
        (rope._vary, {"HALF": 32, "BLOCK": 32, "HEADS": 8}),
        (pool._forward, {"BLOCK_K": 32, "BLOCK_D": 128}),
        (pool._backward, {"BLOCK_K": 32, "BLOCK_D": 128}),
        (gather._gather, {"SCALED": True, "BLOCK": 1024}),
    ):
        assert compiled(kernel, **constants).asm["cubin"]
