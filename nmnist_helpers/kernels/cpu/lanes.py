"""Vector values (several numbers side by side) for Numba kernels.

Numba leaves it to LLVM to turn a loop over channels into vector code, and LLVM gives up silently where it cannot
prove that two arrays do not overlap. Here a kernel says what it means, as a Triton kernel does: it loads `LANES`
neighbouring channels as one value, computes with it, and stores it. State then lives in registers through all of
time. LLVM cuts the values into whatever vectors the processor has (AVX-512, AVX2, NEON): nothing depends on one.

There are three kinds of values, `F32`, `I32` and `MASK`. Operators take two values of the same kind; a scalar is
made a value by `spread`. Arrays are flat and C-contiguous, and places in them are counted in elements; nothing checks
that they lie inside.
"""

import operator
from collections.abc import Callable

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 64  # channels per value; a mask of so many fits one machine word

_BIT, _BYTE, _INT, _LONG, _FLOAT = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _vector(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, LANES)


class Lanes(types.Type):
    """Numba's type of `LANES` elements side by side."""

    def __init__(self, name: str, element: ir.Type):
        super().__init__(name=f"{name}x{LANES}")
        self.vector = _vector(element)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.vector)


F32, I32, MASK = Lanes("f32", _FLOAT), Lanes("i32", _INT), Lanes("mask", _BIT)


def _operator(symbol: Callable, result: Lanes, kind: Lanes, emit: Callable) -> None:
    """Compile ``symbol(a, b)`` of two values of `kind` to what `emit` writes."""
    template = type(symbol.__name__, (ConcreteTemplate,), {"cases": [signature(result, kind, kind)]})
    infer_global(symbol)(template)
    lower_builtin(symbol, kind, kind)(lambda context, builder, sig, args: emit(builder, *args))


_FUSED = ("contract",)  # a product and a sum may become one instruction with one rounding; nothing is reordered
_operator(operator.add, F32, F32, lambda builder, a, b: builder.fadd(a, b, flags=_FUSED))
_operator(operator.sub, F32, F32, lambda builder, a, b: builder.fsub(a, b, flags=_FUSED))
_operator(operator.mul, F32, F32, lambda builder, a, b: builder.fmul(a, b, flags=_FUSED))
_operator(operator.lt, MASK, F32, lambda builder, a, b: builder.fcmp_ordered("<", a, b))  # False for NaN
_operator(operator.add, I32, I32, lambda builder, a, b: builder.add(a, b))
_operator(operator.sub, I32, I32, lambda builder, a, b: builder.sub(a, b))
_operator(operator.mul, I32, I32, lambda builder, a, b: builder.mul(a, b))
_operator(operator.and_, I32, I32, lambda builder, a, b: builder.and_(a, b))
_operator(operator.or_, I32, I32, lambda builder, a, b: builder.or_(a, b))
_operator(operator.lshift, I32, I32, lambda builder, a, b: builder.shl(a, b))
_operator(operator.rshift, I32, I32, lambda builder, a, b: builder.ashr(a, b))  # keeps the sign
_operator(operator.lt, MASK, I32, lambda builder, a, b: builder.icmp_signed("<", a, b))
_operator(operator.gt, MASK, I32, lambda builder, a, b: builder.icmp_signed(">", a, b))
_operator(operator.or_, MASK, MASK, lambda builder, a, b: builder.or_(a, b))


def _function(name: str, kind: Lanes, result: object, emit: Callable) -> Callable:
    """A function of one value of `kind`."""

    def typing(typingctx, x):
        return result(kind), lambda context, builder, sig, args: emit(builder, args[0])

    typing.__name__ = name
    return intrinsic(typing)


def _library(name: str) -> Callable:
    """A call of LLVM's function `name` on float lanes."""

    def emit(builder, x):
        kind = ir.FunctionType(x.type, [x.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), [x])

    return emit


def _int_magnitude(builder, x):
    zero = ir.Constant(x.type, [0] * LANES)
    return builder.select(builder.icmp_signed("<", x, zero), builder.sub(zero, x), x)


magnitude = _function("magnitude", I32, I32, _int_magnitude)  # of an int
distance = _function("distance", F32, F32, _library("fabs"))  # magnitude of a float
floor = _function("floor", F32, F32, _library("floor"))
to_f32 = _function("to_f32", I32, F32, lambda builder, x: builder.sitofp(x, _vector(_FLOAT)))
to_i32 = _function("to_i32", F32, I32, lambda builder, x: builder.fptosi(x, _vector(_INT)))  # toward zero
bits_to_f32 = _function("bits_to_f32", I32, F32, lambda builder, x: builder.bitcast(x, _vector(_FLOAT)))
bits = _function("bits", MASK, types.uint64, lambda builder, x: builder.bitcast(x, ir.IntType(LANES)))  # lane 0 lowest


@intrinsic
def where(typingctx, mask, a, b):
    """Lanes of `a` where `mask` is set, else of `b`."""
    if mask is MASK and a is b:
        return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def spread(typingctx, x):
    """A float32 or int32 scalar in every lane."""
    kind = {types.float32: F32, types.int32: I32}.get(x)
    if kind is None:
        return None

    def codegen(context, builder, sig, args):
        nothing = ir.Constant(kind.vector, ir.Undefined)
        one = builder.insert_element(nothing, args[0], ir.Constant(_INT, 0))
        return builder.shuffle_vector(one, nothing, ir.Constant(_vector(_INT), [0] * LANES))

    return kind(x), codegen


def _place(context, builder, array_type, array, at, vector):
    """Pointer to `vector` at element `at` of a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


@intrinsic
def load(typingctx, array, at):
    """Lanes from ``array[at : at + LANES]``: float32 as F32; int32, int8 and uint8 as I32."""
    if not isinstance(array, types.Array) or array.layout != "C" or array.ndim != 1:
        return None
    kind = F32 if array.dtype == types.float32 else I32
    width = array.dtype.bitwidth
    stored = kind.vector if width == 32 else _vector(_BYTE)

    def codegen(context, builder, sig, args):
        lanes = builder.load(_place(context, builder, sig.args[0], *args, stored), align=width // 8)
        if width == 32:
            return lanes
        return (builder.sext if array.dtype.signed else builder.zext)(lanes, kind.vector)

    return kind(array, types.int64), codegen


@intrinsic
def store(typingctx, array, at, lanes):
    """Write to ``array[at : at + LANES]``: F32 into float32, I32 into int32, MASK as 0/1 into uint8."""
    fits = {F32: types.float32, I32: types.int32, MASK: types.uint8}
    if not isinstance(array, types.Array) or array.layout != "C" or array.ndim != 1:
        return None
    if fits.get(lanes) != array.dtype:
        return None

    def codegen(context, builder, sig, args):
        array, at, value = args
        if lanes is MASK:
            value = builder.zext(value, _vector(_BYTE))
        place = _place(context, builder, sig.args[0], array, at, value.type)
        builder.store(value, place, align=sig.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.int64, lanes), codegen
