"""Single machine instructions on 64-bit words, for Numba kernels."""

from numba import types
from numba.extending import intrinsic


@intrinsic
def lowest_bit(typingctx, word):
    """Return the position of the lowest set bit of a uint64, or 64 if no bit is set."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), codegen


@intrinsic
def count_bits(typingctx, word):
    """Return the number of set bits of a uint64."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen
