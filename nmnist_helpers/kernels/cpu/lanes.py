"""Vector values (several numbers side by side) for Numba kernels.

Numba relies on LLVM to vectorise a loop over channels, and LLVM silently gives up where it cannot prove that two
arrays do not overlap. Here a kernel states its vectors explicitly, as a Triton kernel does: it loads `LANES`
neighbouring channels as one value, computes with it, and stores it. The neurons' state then stays in registers
through all time steps. LLVM splits the values into the processor's own vectors (AVX-512, AVX2 or NEON).

`F32`, `I32` and `MASK` are the types of values with `LANES` elements. `I16_CHUNK` has `CHUNK` elements, for sums that
need few registers. Operators take two values of the same type; `spread` and `spread_chunk` convert a scalar to a
value. Arrays must be flat and C-contiguous. Positions in them are counted in elements, without bounds checks.
"""

import operator
from collections.abc import Callable

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

CHUNK = 64  # channels that a task processes together; one machine word holds a mask of them
# The fastest choice: with AVX2 (16 registers of 8 lanes), kernels with 8 or 64 lanes take 10 to 50 % longer.
# AVX-512 has 32 registers of 16 lanes.
LANES = CHUNK if llvmlite.binding.get_host_cpu_features().get("avx512f") else 16

_BIT, _BYTE, _SHORT, _INT, _LONG, _FLOAT = (*map(ir.IntType, (1, 8, 16, 32, 64)), ir.FloatType())


class Lanes(types.Type):
    """The Numba type of a value that consists of several elements."""

    def __init__(self, name: str, element: ir.Type, count: int = LANES):
        super().__init__(name=f"{name}x{count}")
        self.vector = ir.VectorType(element, count)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.vector)


F32, I32, MASK = Lanes("f32", _FLOAT), Lanes("i32", _INT), Lanes("mask", _BIT)
I16_CHUNK = Lanes("i16", _SHORT, CHUNK)


def _define_operator(symbol: Callable, *versions: tuple[Lanes, Lanes, Callable]) -> None:
    """Define ``symbol(a, b)``. A version consists of the type of the result, that of a and b, and the LLVM code."""
    cases = [signature(result, kind, kind) for result, kind, _ in versions]
    # As versions for the target "cpu" they are tried before Numba's own, of which there are dozens for other types.
    template = type(symbol.__name__, (ConcreteTemplate,), {"cases": cases, "metadata": {"target": "cpu"}})
    infer_global(symbol)(template)
    for _, kind, emit in versions:
        lower_builtin(symbol, kind, kind)(lambda context, builder, sig, args, emit=emit: emit(builder, *args))


def _fused(name: str) -> tuple[Lanes, Lanes, Callable]:
    """Return a version for floats whose product and sum LLVM may fuse into one instruction with a single rounding."""
    return F32, F32, lambda builder, a, b: getattr(builder, name)(a, b, flags=("contract",))


def _integer(name: str, kind: Lanes = I32) -> tuple[Lanes, Lanes, Callable]:
    return kind, kind, lambda builder, a, b: getattr(builder, name)(a, b)


def _compared(name: str, symbol: str, kind: Lanes) -> tuple[Lanes, Lanes, Callable]:
    return MASK, kind, lambda builder, a, b: getattr(builder, name)(symbol, a, b)


_define_operator(operator.add, _fused("fadd"), _integer("add"), _integer("add", I16_CHUNK))
_define_operator(operator.sub, _fused("fsub"), _integer("sub"))
_define_operator(operator.mul, _fused("fmul"), _integer("mul"))
_define_operator(operator.and_, _integer("and_"))
_define_operator(operator.or_, _integer("or_"), _integer("or_", MASK))
_define_operator(operator.lshift, _integer("shl"))
_define_operator(operator.rshift, _integer("ashr"))  # keeps the sign
_define_operator(operator.lt, _compared("fcmp_ordered", "<", F32), _compared("icmp_signed", "<", I32))  # NaN: False
_define_operator(operator.gt, _compared("icmp_signed", ">", I32))
_define_operator(operator.ne, _compared("fcmp_unordered", "!=", F32))  # NaN: True


def _make_function(name: str, kind: Lanes, result: object, emit: Callable) -> Callable:
    """Return a function of one value of type `kind`; `emit` writes its LLVM code."""

    def typing(typingctx, x):
        return result(kind), lambda context, builder, sig, args: emit(builder, args[0])

    typing.__name__ = name
    return intrinsic(typing)


def _call_emitter(name: str) -> Callable:
    """Return an emitter that calls LLVM's function `name` on float lanes."""

    def emit(builder, x):
        kind = ir.FunctionType(x.type, [x.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), [x])

    return emit


def _abs_i32(builder, x):
    zero = ir.Constant(x.type, [0] * LANES)
    return builder.select(builder.icmp_signed("<", x, zero), builder.sub(zero, x), x)


def _total(builder, x):
    count = LANES
    while count > 1:  # add the halves until one number is left: the order of the sum is fixed
        count //= 2
        low, high = (
            builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(_INT, count), list(range(at, at + count))))
            for at in (0, count)
        )
        x = builder.fadd(low, high)
    return builder.extract_element(x, ir.Constant(_INT, 0))


def _word(builder, mask):
    word = builder.bitcast(mask, ir.IntType(LANES))
    return word if LANES == 64 else builder.zext(word, _LONG)


abs_i32 = _make_function("abs_i32", I32, I32, _abs_i32)
abs_f32 = _make_function("abs_f32", F32, F32, _call_emitter("fabs"))
nearest = _make_function("nearest", F32, F32, _call_emitter("rint"))  # rounds half to even, as torch.round
to_f32 = _make_function("to_f32", I32, F32, lambda builder, x: builder.sitofp(x, F32.vector))
to_i32 = _make_function("to_i32", F32, I32, lambda builder, x: builder.fptosi(x, I32.vector))  # toward zero
f32_to_bits = _make_function("f32_to_bits", F32, I32, lambda builder, x: builder.bitcast(x, I32.vector))
bits_to_f32 = _make_function("bits_to_f32", I32, F32, lambda builder, x: builder.bitcast(x, F32.vector))
total = _make_function("total", F32, types.float32, _total)  # sum of all lanes
bits = _make_function("bits", MASK, types.uint64, _word)  # a bit for each lane; lane 0 is the lowest bit


@intrinsic
def where(typingctx, mask, a, b):
    """Return the lanes of `a` where `mask` is set, else those of `b`."""
    if mask is MASK and a is b:
        return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


def _make_spread(name: str, kinds: dict[types.Type, Lanes]) -> Callable:
    """Return a function that copies a scalar to all lanes; `kinds` maps the scalar's type to the value's."""

    def typing(typingctx, x):
        kind = kinds.get(x)
        if kind is None:
            return None

        def codegen(context, builder, sig, args):
            nothing = ir.Constant(kind.vector, ir.Undefined)
            one = builder.insert_element(nothing, args[0], ir.Constant(_INT, 0))
            mask = ir.Constant(ir.VectorType(_INT, kind.vector.count), [0] * kind.vector.count)
            return builder.shuffle_vector(one, nothing, mask)

        return kind(x), codegen

    typing.__name__ = name
    return intrinsic(typing)


spread = _make_spread("spread", {types.float32: F32, types.int32: I32})
spread_chunk = _make_spread("spread_chunk", {types.int16: I16_CHUNK})


def _is_flat(array: types.Type, *dtypes: types.Type) -> bool:
    """Return whether the type is that of a flat, contiguous array with elements of one of the types."""
    return isinstance(array, types.Array) and array.layout == "C" and array.ndim == 1 and array.dtype in dtypes


def _pointer(context, builder, array_type, array, at, vector):
    """Return a pointer to a value of type `vector` at element `at` of a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _make_load(name: str, kinds: dict[types.Type, Lanes]) -> Callable:
    """Return a function that loads a value from a flat array; `kinds` maps the array's element type to the value's."""

    def typing(typingctx, array, at):
        if not _is_flat(array, *kinds):
            return None
        kind, width = kinds[array.dtype], array.dtype.bitwidth
        stored = kind.vector if width > 8 else ir.VectorType(_BYTE, kind.vector.count)

        def codegen(context, builder, sig, args):
            lanes = builder.load(_pointer(context, builder, sig.args[0], *args, stored), align=width // 8)
            return lanes if width > 8 else builder.sext(lanes, kind.vector)

        return kind(array, types.int64), codegen

    typing.__name__ = name
    return intrinsic(typing)


load = _make_load("load", {types.float32: F32, types.int32: I32})
load_chunk = _make_load("load_chunk", {types.int8: I16_CHUNK})


@intrinsic
def gather(typingctx, array, at, stride):
    """Load the elements ``at``, ``at + stride``, ... of a flat float32 array."""
    if not _is_flat(array, types.float32):
        return None

    def codegen(context, builder, sig, args):
        array, place, stride = args
        data = context.make_array(sig.args[0])(context, builder, array).data
        lanes = ir.Constant(F32.vector, ir.Undefined)
        for lane in range(LANES):
            one = builder.load(builder.gep(data, [place]))
            lanes = builder.insert_element(lanes, one, ir.Constant(_INT, lane))
            place = builder.add(place, stride)
        return lanes

    return F32(array, types.int64, types.int64), codegen


@intrinsic
def load_each(typingctx, array, at, places, first):
    """Load the elements ``at + places[first]``, ``at + places[first + 1]``, ... of a flat float32 array."""
    if not _is_flat(array, types.float32) or not _is_flat(places, types.int64):
        return None

    def codegen(context, builder, sig, args):
        array, at, places, first = args
        data = builder.gep(context.make_array(sig.args[0])(context, builder, array).data, [at])
        table = builder.gep(context.make_array(sig.args[2])(context, builder, places).data, [first])
        lanes = ir.Constant(F32.vector, ir.Undefined)
        for lane in range(LANES):
            place = builder.load(builder.gep(table, [ir.Constant(_LONG, lane)]))
            one = builder.load(builder.gep(data, [place]))
            lanes = builder.insert_element(lanes, one, ir.Constant(_INT, lane))
        return lanes

    return F32(array, types.int64, places, types.int64), codegen


@intrinsic
def scatter(typingctx, array, at, stride, lanes):
    """Write lanes to the elements ``at``, ``at + stride``, ... of a flat float32 array."""
    if not _is_flat(array, types.float32) or lanes is not F32:
        return None

    def codegen(context, builder, sig, args):
        array, place, stride, lanes = args
        data = context.make_array(sig.args[0])(context, builder, array).data
        for lane in range(LANES):
            builder.store(builder.extract_element(lanes, ir.Constant(_INT, lane)), builder.gep(data, [place]))
            place = builder.add(place, stride)
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64, lanes), codegen


@intrinsic
def store(typingctx, array, at, lanes):
    """Write lanes to ``array[at:]``: F32 as float32, I32 as int32 or int8, I16 as int32, MASK as 0/1 in uint8."""
    fits = {F32: [types.float32], I32: [types.int32, types.int8], I16_CHUNK: [types.int32], MASK: [types.uint8]}
    if not _is_flat(array, *fits.get(lanes, ())):
        return None
    narrow = array.dtype == types.int8

    def codegen(context, builder, sig, args):
        array, at, value = args
        if lanes is MASK:
            value = builder.zext(value, ir.VectorType(_BYTE, LANES))
        if lanes is I16_CHUNK:
            value = builder.sext(value, ir.VectorType(_INT, CHUNK))
        if narrow:
            value = builder.trunc(value, ir.VectorType(_BYTE, LANES))
        place = _pointer(context, builder, sig.args[0], array, at, value.type)
        builder.store(value, place, align=sig.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.int64, lanes), codegen
