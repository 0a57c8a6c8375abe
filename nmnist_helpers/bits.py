"""Single machine instructions on 64-bit words, for Numba kernels."""

from numba import types
from numba.extending import intrinsic


@intrinsic
def lowest_bit(typingctx, word):
    """Place of the lowest set bit of a uint64, 64 where there is none."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), codegen


@intrinsic
def count_bits(typingctx, word):
    """Number of set bits of a uint64."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen
