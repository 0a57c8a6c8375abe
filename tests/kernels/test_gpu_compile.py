"""Compile the Triton kernels ahead of time for sm_80 and sm_90, with the options of their launches and without a GPU.

The machine code must load data before they are used (``cp.async``), compute products on tensor cores, spill no
registers, and access 16 bytes at a time where rows are aligned.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted in this process", allow_module_level=True)

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from nmnist_helpers.data import binning_gpu as raster  # noqa: E402
from nmnist_helpers.kernels.gpu import axon, conv, integers, launch, matmul, neuron, weight  # noqa: E402
from nmnist_helpers.kernels.window import Window  # noqa: E402

# The shapes between the smallest and the largest test little that is new, so they are marked as slow.
SHAPES = [shape for _, shape in launch.SHAPES]
SHAPES[1:-1] = [pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:-1]]
CAPABILITIES = pytest.mark.parametrize(
    "capability", [pytest.param(80, marks=pytest.mark.slow), 90], ids=["sm_80", "sm_90"]
)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

FORWARD = {
    **dict.fromkeys(
        "retain_i retain_v current0 voltage0 current1 voltage1 voltage current flag".split(), "*i32"
    ),
    "z": "*fp32", "spikes": "*u8", "T": "i32", "C": "i32", "threshold": "i32", "scale": "fp32",
}  # fmt: skip
BACKWARD = {
    **dict.fromkeys("grad grad_voltage grad_current grad_z sums".split(), "*fp32"),
    **dict.fromkeys("voltage retain_i retain_v current0 voltage0 lag".split(), "*i32"),
    "kept": "*u8", "T": "i32", "C": "i32", "threshold": "i32", "by_tau": "fp32", "gain": "fp32", "sum_stride": "i32",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _use_empty_cache(tmp_path_factory):
    """Use an empty cache, so that no kernel comes from an earlier run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def compile_kernel(kernel, capability, signature, constants, aligned=(), **options):
    """Compile a kernel as a launch would, with pointers and the sizes named in `aligned` being multiples of 16.

    The arguments in `constants` are fixed, even if `signature` names them too; None omits an argument.
    """
    names = kernel.arg_names
    signature = {name: kind for name, kind in signature.items() if name not in constants}
    types = {name: signature.get(name, "constexpr") for name in names}
    values = {name: constants[name] for name in names if types[name] == "constexpr"}
    assert set(signature) <= set(names)
    divisible = [["tt.divisibility", 16]]
    attributes = {(i,): divisible for i, name in enumerate(names) if types[name].startswith("*") or name in aligned}
    source = ASTSource(kernel, types, constexprs=values, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def count(kernel, pattern: str) -> int:
    return len(re.findall(pattern, kernel.asm["ptx"]))


def assert_no_spills(kernel, tmp_path):
    if not CUOBJDUMP.exists():
        return
    path = tmp_path / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    usage = subprocess.run([CUOBJDUMP, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack, usage
    assert int(stack[1]) == 0, usage


@CAPABILITIES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_neuron_kernels(capability, shape, tmp_path):
    options = {"BLOCK": shape.block, "STAGES": shape.stages}
    wide = shape.block // (32 * shape.warps) == 4  # four channels per thread
    forward = compile_kernel(
        neuron.forward_kernel, capability, FORWARD, {**options, "current": None},
        aligned=["C"], num_warps=shape.warps,
    )  # fmt: skip
    backward = compile_kernel(
        neuron.backward_kernel, capability, BACKWARD,
        {**options, "DECAY": 4096, "grad_voltage": None, "grad_current": None, "lag": None},
        aligned=["C"], num_warps=shape.warps,
    )  # fmt: skip
    for kernel, streams in ((forward, 1), (backward, 2)):
        prefetches = count(kernel, r"cp\.async\.c[ag]\.shared")
        assert prefetches >= streams * (shape.stages - 1)  # stages - 1 before the loop, one in it
        if wide:
            assert count(kernel, r"cp\.async\.cg\.shared") == prefetches  # .cg always copies 16 bytes
            assert count(kernel, r"st\.global\.v4\.b32") > 0
        assert_no_spills(kernel, tmp_path)
    assert count(forward, r"mul\.wide\.s32|mul\.lo\.s64") < 12  # 64-bit products only for addresses


@pytest.mark.slow
@CAPABILITIES
def test_neuron_kernels_with_all_arguments(capability):
    """With all gradients, a lag per channel, the current as an output, and rows that are not aligned."""
    compile_kernel(
        neuron.forward_kernel, capability, FORWARD,
        {"BLOCK": 32, "STAGES": 8}, num_warps=1,
    )  # fmt: skip
    backward = compile_kernel(
        neuron.backward_kernel, capability, BACKWARD,
        {"BLOCK": 32, "STAGES": 8, "DECAY": 4096}, num_warps=1,
    )  # fmt: skip
    assert count(backward, r"cp\.async\.c[ag]\.shared") >= 4 * 7


@CAPABILITIES
def test_axon_kernels(capability):
    signature = {"spikes": "*u8", "lag": "*i32", "kept": "*u8", "out": "*u8", "T": "i32", "C": "i32"}
    constants = {"ROWS": axon.ROWS, "BLOCK": axon.COLUMNS}
    for absent in ({}, {"kept": None}):
        compile_kernel(axon.axon_kernel, capability, signature, {**constants, **absent}, aligned=["C"])
    compile_kernel(
        axon.delay_gradient_kernel, capability,
        {"grad": "*fp32", "out": "*u8", "sums": "*fp32", "T": "i32", "C": "i32"}, constants, aligned=["C"],
    )  # fmt: skip


# The products [M, K] @ [K, N] of a layer: types of both factors, strides that are 1, whether the first has two terms.
PRODUCTS = {
    "product": ("*u8", "*bf16", {"a_k": 1, "b_k": 1}, False),
    "input gradient": ("*fp32", "*bf16", {"a_k": 1, "b_n": 1}, True),
    "weight gradient": ("*fp32", "*u8", {"a_m": 1, "b_n": 1}, True),
}


@CAPABILITIES
@pytest.mark.parametrize("name", ["product", *(pytest.param(n, marks=pytest.mark.slow) for n in list(PRODUCTS)[1:])])
@pytest.mark.parametrize("size", [512, pytest.param(10, marks=pytest.mark.slow)])
def test_products_run_on_tensor_cores(capability, name, size, tmp_path):
    a, b, unit_strides, two_terms = PRODUCTS[name]
    sizes = {"product": (9600, size), "input gradient": (9600, 512), "weight gradient": (size, 512)}[name]
    signature = {"a": a, "b": b, "out": "*fp32", "out_part": "i64", "value": "fp32"}
    strides = "M N K a_m a_k b_k b_n out_m share".split()
    signature |= {n: "i32" for n in strides if n not in unit_strides}
    options = matmul.tiling(*sizes, two_terms)
    constants = {**unit_strides, "TWO_TERMS": two_terms, "OPERAND": tl.bfloat16, "WHOLE": True, "GROUP": matmul.GROUP}
    constants |= {k: v for k, v in options.items() if k.startswith("BLOCK")}
    unaligned = {"M"} if name == "weight gradient" and size == 10 else {"N"} if size == 10 else set()
    aligned = [n for n in strides if n not in unit_strides and n not in unaligned]
    kernel = compile_kernel(
        matmul.matmul_kernel, capability, signature, constants, aligned,
        num_warps=options["num_warps"], num_stages=options["num_stages"],
    )  # fmt: skip
    # Hopper's own instruction needs at least 64 rows.
    own = capability == 90 and options["BLOCK_M"] >= 64
    assert count(kernel, r"wgmma\.mma_async\S*\.f32\.bf16\.bf16" if own else r"mma\.sync\S*\.f32\.bf16\.bf16\.f32") > 0
    assert count(kernel, r"cp\.async\.c[ag]\.shared") > 0
    if not unaligned:
        assert count(kernel, r"ld\.global\.b8") == 0  # bytes are loaded as vectors
    assert_no_spills(kernel, tmp_path)


LAYER = Window((16, 15, 15), (32, 6, 6), (5, 5), (2, 2), (0, 0))
CONVOLUTIONS = {
    "product": (conv.product_kernel, "spikes weights z value"),
    "weight gradient": (conv.weight_gradient_kernel, "spikes terms out rest"),
    "input gradient": (conv.input_gradient_kernel, "weights terms out rest"),
}


@CAPABILITIES
@pytest.mark.parametrize(
    "name", ["input gradient", *(pytest.param(name, marks=pytest.mark.slow) for name in list(CONVOLUTIONS)[:2])]
)
@pytest.mark.parametrize("padded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_convolutions_run_on_tensor_cores(capability, name, padded, tmp_path):
    kernel, arrays = CONVOLUTIONS[name]
    kinds = {"spikes": "*u8", "weights": "*bf16", "terms": "*bf16", "rest": "i64", "value": "fp32"}
    window = Window((16, 15, 15), (32, 13, 13), (5, 5), (1, 1), (1, 1)) if padded else LAYER
    constants = conv._geometry(window) | conv._padding(window)
    constants |= {"OPERAND": tl.bfloat16, "PLACES": conv.PLACES, "INNER": conv.INNER, "FEATURES": 32, "PIXELS": 64}
    # constants in upper case, and, as Triton makes them, arguments that are 1
    constants = {n: v for n, v in constants.items() if n in kernel.arg_names and (n.isupper() or v == 1)}
    signature = {n: "i32" for n in kernel.arg_names} | {n: kinds.get(n, "*fp32") for n in arrays.split()}
    warps = {"num_warps": conv._padding(window)["num_warps"]} if "PADDED" in constants else {}
    found = compile_kernel(kernel, capability, signature, constants, **warps)
    assert count(found, r"(wgmma\.mma_async|mma\.sync)\S*\.f32\.bf16\.bf16") > 0
    assert_no_spills(found, tmp_path)


@CAPABILITIES
def test_small_kernels(capability):
    flag = {"flag": "*i32"}
    for shared in (True, False):
        compile_kernel(
            integers.retention_kernel, capability,
            {"decay": "*fp32", "retention": "*i32", "N": "i32", "places": "i32", **flag},
            {"SHARED": shared, "BLOCK": integers.BLOCK},
        )  # fmt: skip
    lag = {"delay": "*fp32", "lag": "*i32", "C": "i32", "shift": "i32", "T": "i32", **flag}
    compile_kernel(integers.lag_kernel, capability, lag, {"BLOCK": integers.BLOCK})
    rows = {"rows": "*fp32", "out": "*fp32", "N": "i32", "C": "i32", "factor": "fp32"}
    compile_kernel(launch.sum_kernel, capability, rows, {"ROWS": 64, "BLOCK": 32}, aligned=["C"])


@CAPABILITIES
def test_weight_kernels(capability):
    pointers = dict.fromkeys(["v", "factor", "norm", "grad", "grad_v", "grad_g"], "*fp32")
    quantise = compile_kernel(
        weight.quantise_kernel, capability,
        {"v": "*fp32", "factor": "*fp32", "weights": "*bf16", "C": "i32", "stride": "i32"}, {"BLOCK": weight.COLUMNS},
        aligned=["stride"],
    )  # fmt: skip
    assert count(quantise, r"min\.NaN\.f32|max\.NaN\.f32") > 0  # clamping does not remove NaN
    norms = compile_kernel(
        weight.norm_kernel, capability, {"v": "*fp32", "out": "*fp32", "N": "i32", "C": "i32"},
        {"ROWS": 4, "LANES": weight.NORM_LANES, "STAGES": 16}, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    assert count(norms, r"fma\.rn\.f32") == 0  # squares are rounded before they are added, as on the CPU
    assert count(norms, r"cp\.async\.c[ag]\.shared") >= 15
    for absent in ({}, {"norm": None, "grad_g": None}):
        compile_kernel(
            weight.gradient_kernel, capability, {**pointers, "C": "i32", "stride": "i32"},
            {"BLOCK": weight.COLUMNS, **absent},
        )  # fmt: skip


@CAPABILITIES
@pytest.mark.parametrize(
    ("random", "words"),
    [
        (True, "*i32"),
        (False, "*i64"),
        pytest.param(True, "*i64", marks=pytest.mark.slow),
        pytest.param(False, "*i32", marks=pytest.mark.slow),
    ],
)
def test_raster_kernel(capability, words, random):
    signature = {
        "words": words, **dict.fromkeys(["first", "count", "draws", "edges"], "*i64"), "out": "*u8",
        "T": "i32", "width": "i32", "cap": "i32", "drop_below": "i64", "jitter_scale": "i32", "warp_scale": "i32",
    }  # fmt: skip
    constants = {"RANDOM": random, "JITTER": random, "WARPED": random, "SEARCH": 9, "EVENTS": raster.EVENTS}
    compile_kernel(raster.raster_kernel, capability, signature, constants, aligned=["width"])
