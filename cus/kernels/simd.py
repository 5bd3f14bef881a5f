"""Sixteen float32 lanes as a value type for Numba kernels, and masks over them.

Numba's own vectorisation of a compositing loop is fragile and several times slower. Here every operation is one LLVM
vector instruction, which the compiler lowers to AVX-512, two AVX2 or four SSE or NEON registers, depending on the
machine. Only for use inside `njit` functions: outside they are meaningless. `multiply_add` is fused if the hardware
supports it; nothing else is contracted or reassociated, so two kernels that evaluate the same expression get the same
bits.

    dx = column_offsets() + x          # Lanes and float32 mix in + - * / and in comparisons, which give a Mask
    alpha = exp2_negative(-sigma) * opacity
    alpha = select(alpha < cap, alpha, cap)
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_PIXEL = ir.VectorType(ir.FloatType(), 4)
# Minimax polynomial of 2^f on [-1/2, 1/2], highest power first; relative error 8e-8 before rounding.
_EXP2 = (1.3276472e-3, 9.6755414e-3, 5.5507133e-2, 2.4022120e-1, 6.9314697e-1, 1.00000007)
# Below this, 2^x is treated as 0; the bit pattern below holds for exponents above -127.
_LEAST_EXPONENT = -120.0


class LanesType(types.Type):
    """Sixteen float32 values."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


class MaskType(types.Type):
    """Sixteen booleans."""

    def __init__(self) -> None:
        super().__init__(name="Mask")


LANES_TYPE, MASK_TYPE = LanesType(), MaskType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: types.Type) -> None:
        super().__init__(manager, fe_type, _FLOATS)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: types.Type) -> None:
        super().__init__(manager, fe_type, _BITS)


def _instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's `intrinsic`: arguments after the first are those of the call inside a kernel."""
    return intrinsic(function)


def _broadcast(builder: Any, scalar: Any) -> Any:
    """A vector with the scalar in all lanes."""
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


def _fused(builder: Any) -> Any:
    """LLVM's a * b + c for vectors."""
    signature = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return cgutils.get_or_insert_function(builder.module, signature, f"llvm.fmuladd.v{LANES}f32")


def _as_lanes(context: Any, builder: Any, value: Any, kind: types.Type) -> Any:
    if isinstance(kind, LanesType):
        return value
    return _broadcast(builder, context.cast(builder, value, kind, types.float32))


def _numeric(kind: types.Type) -> bool:
    return isinstance(kind, LanesType | types.Number)


def _register(symbol: Any, function: Callable[..., Any]) -> None:
    """Map an operator on Lanes (or a float32 on one side) to an intrinsic."""

    def meaning(a, b):  # Numba compares its signature with the lambda's: no annotations
        if _numeric(a) and _numeric(b) and (isinstance(a, LanesType) or isinstance(b, LanesType)):
            return lambda a, b: function(a, b)
        return None

    overload(symbol, inline="always")(meaning)


def _arithmetic(instruction: str) -> Callable[..., Any]:
    @_instruction
    def function(typing: Any, a: types.Type, b: types.Type):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, y = (_as_lanes(context, builder, v, k) for v, k in zip(arguments, signature.args, strict=True))
            return getattr(builder, instruction)(x, y)

        return LANES_TYPE(a, b), generate

    return function


def _comparison(symbol: str) -> Callable[..., Any]:
    @_instruction
    def function(typing: Any, a: types.Type, b: types.Type):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, y = (_as_lanes(context, builder, v, k) for v, k in zip(arguments, signature.args, strict=True))
            return builder.fcmp_ordered(symbol, x, y)

        return MASK_TYPE(a, b), generate

    return function


_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE = (_arithmetic(name) for name in ("fadd", "fsub", "fmul", "fdiv"))
_LESS, _AT_MOST, _GREATER, _AT_LEAST = (_comparison(name) for name in ("<", "<=", ">", ">="))
_register(operator.add, _ADD)
_register(operator.sub, _SUBTRACT)
_register(operator.mul, _MULTIPLY)
_register(operator.truediv, _DIVIDE)
_register(operator.lt, _LESS)
_register(operator.le, _AT_MOST)
_register(operator.gt, _GREATER)
_register(operator.ge, _AT_LEAST)


@_instruction
def _and(typing: Any, a: types.Type, b: types.Type):
    return MASK_TYPE(a, b), lambda context, builder, signature, arguments: builder.and_(*arguments)


@overload(operator.and_, inline="always")
def _mask_and(a, b):
    if isinstance(a, MaskType) and isinstance(b, MaskType):
        return lambda a, b: _and(a, b)
    return None


@_instruction
def bits(typing: Any, mask: types.Type):
    """A mask as an int32 whose bit i is lane i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(LANES)), ir.IntType(32))

    return types.int32(mask), generate


@_instruction
def lowest_bit(typing: Any, value: types.Type):
    """Position of the lowest set bit in a nonzero int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int32(types.int32), generate


@_instruction
def select(typing: Any, mask: types.Type, a: types.Type, b: types.Type):
    """Lanes of `a` where the mask is set, of `b` elsewhere (either may be a float32)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y = (_as_lanes(context, builder, v, k) for v, k in zip(arguments[1:], signature.args[1:], strict=True))
        return builder.select(arguments[0], x, y)

    return LANES_TYPE(mask, a, b), generate


def _chosen_by(symbol: str) -> Callable[..., Any]:
    """For each pair of lanes the one that compares as given; either operand may be a float32."""

    @_instruction
    def function(typing: Any, a: types.Type, b: types.Type):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, y = (_as_lanes(context, builder, v, k) for v, k in zip(arguments, signature.args, strict=True))
            return builder.select(builder.fcmp_ordered(symbol, x, y), x, y)

        return LANES_TYPE(a, b), generate

    return function


smaller, larger = _chosen_by("<"), _chosen_by(">")


@_instruction
def multiply_add(typing: Any, a: types.Type, b: types.Type, c: types.Type):
    """Compute a * b + c, fused if the hardware supports it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        operands = [_as_lanes(context, builder, v, k) for v, k in zip(arguments, signature.args, strict=True)]
        return builder.call(_fused(builder), operands)

    return LANES_TYPE(a, b, c), generate


@_instruction
def negative_magnitude(typing: Any, value: types.Type):
    """Compute -|x|."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        signs = ir.Constant(_INTS, [-(2**31)] * LANES)
        return builder.bitcast(builder.or_(builder.bitcast(arguments[0], _INTS), signs), _FLOATS)

    return LANES_TYPE(value), generate


@_instruction
def lanes(typing: Any, value: types.Type):
    """Repeat a float32 in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _as_lanes(context, builder, arguments[0], signature.args[0])

    return LANES_TYPE(value), generate


@_instruction
def column_offsets(typing: Any):
    """0 1 2 3 0 1 2 3 ...: the columns of a 4 x 4 block of pixels."""
    constant = ir.Constant(_FLOATS, [float(i % 4) for i in range(LANES)])
    return LANES_TYPE(), lambda context, builder, signature, arguments: constant


@_instruction
def row_offsets(typing: Any):
    """0 0 0 0 1 1 1 1 ...: the rows of a 4 x 4 block of pixels."""
    constant = ir.Constant(_FLOATS, [float(i // 4) for i in range(LANES)])
    return LANES_TYPE(), lambda context, builder, signature, arguments: constant


def _pointer(context: Any, builder: Any, array: tuple[Any, Any], index: tuple[Any, Any]) -> Any:
    """A vector pointer to the element of an array (type, value) at an index (type, value)."""
    data = context.make_array(array[0])(context, builder, array[1]).data
    element = builder.gep(data, [context.cast(builder, index[1], index[0], types.intp)])
    return builder.bitcast(element, _FLOATS.as_pointer())


@_instruction
def load(typing: Any, array: types.Type, index: types.Type):
    """Load sixteen values of a contiguous float32 or uint8 array [n] from `index` on, without a bounds check."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, index_type = signature.args
        pointer = _pointer(context, builder, (array_type, arguments[0]), (index_type, arguments[1]))
        if array_type.dtype != types.uint8:
            return builder.load(pointer, align=4)
        small = builder.load(builder.bitcast(pointer, _BYTES.as_pointer()), align=1)
        return builder.sitofp(builder.zext(small, _INTS), _FLOATS)

    return LANES_TYPE(array, index), generate


@_instruction
def store(typing: Any, array: types.Type, index: types.Type, value: types.Type):
    """Store sixteen values to a contiguous float32 array [n] from `index` on, without a bounds check."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, index_type, _ = signature.args
        pointer = _pointer(context, builder, (array_type, arguments[0]), (index_type, arguments[1]))
        builder.store(_as_lanes(context, builder, arguments[2], signature.args[2]), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


def _shuffled(builder: Any, vector: Any, order: list[int]) -> Any:
    """A vector of the given lanes of another."""
    undefined = ir.Constant(vector.type, ir.Undefined)
    return builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


@_instruction
def load_pixel(typing: Any, array: types.Type, index: types.Type):
    """Load four values of a contiguous float32 array [n] from `index` on, and repeat them four times; no bounds check.

    Sixteen lanes are four pixels of four channels, the fourth of which is unused.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, index_type = signature.args
        pointer = _pointer(context, builder, (array_type, arguments[0]), (index_type, arguments[1]))
        four = builder.load(builder.bitcast(pointer, _PIXEL.as_pointer()), align=4)
        return _shuffled(builder, four, [i % 4 for i in range(LANES)])

    return LANES_TYPE(array, index), generate


@_instruction
def store_pixel(typing: Any, array: types.Type, index: types.Type, value: types.Type):
    """Store the first four lanes to a contiguous float32 array [n] from `index` on, without a bounds check."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, index_type, _ = signature.args
        pointer = _pointer(context, builder, (array_type, arguments[0]), (index_type, arguments[1]))
        four = _shuffled(builder, arguments[2], [0, 1, 2, 3])
        builder.store(four, builder.bitcast(pointer, _PIXEL.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@_instruction
def sum_of_pixels(typing: Any, value: types.Type):
    """Sum of the four pixels of four channels, repeated four times: of the lanes whose numbers are equal modulo 4."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = arguments[0]
        for step in (8, 4):
            found = builder.fadd(found, _shuffled(builder, found, [(i + step) % LANES for i in range(LANES)]))
        return found

    return LANES_TYPE(value), generate


def _a_pixel_each(first: int) -> Callable[..., Any]:
    """Four lanes from `first` on, repeated for the four channels of a pixel each."""

    @_instruction
    def function(typing: Any, value: types.Type):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _shuffled(builder, arguments[0], [first + i // 4 for i in range(LANES)])

        return LANES_TYPE(value), generate

    return function


# The lanes 0 to 3, and 4 to 7, as the weights of four pixels of four channels.
pixel_weights, next_pixel_weights = _a_pixel_each(0), _a_pixel_each(4)


@_instruction
def extract(typing: Any, value: types.Type, index: types.Type):
    """One lane as a float32; free to multiply lanes by, if the index is a constant."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.cast(builder, arguments[1], signature.args[1], types.int32)
        return builder.extract_element(arguments[0], place)

    return types.float32(value, index), generate


@_instruction
def prefetch(typing: Any, array: types.Type, index: types.Type):
    """Prefetch the element of a contiguous array [n] at an index into the caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, index_type = signature.args
        data = context.make_array(array_type)(context, builder, arguments[0]).data
        element = builder.gep(data, [context.cast(builder, arguments[1], index_type, types.intp)])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        flags = [ir.Constant(number, flag) for flag in (0, 3, 1)]  # read access, high locality, data cache
        builder.call(function, [builder.bitcast(element, byte), *flags])
        return context.get_dummy_value()

    return types.void(array, index), generate


def _folded(builder: Any, vector: Any, fold: Callable[[Any, Any], Any]) -> Any:
    """The lanes of a vector reduced pairwise to one."""
    count = LANES
    while count > 1:
        count //= 2
        undefined = ir.Constant(vector.type, ir.Undefined)
        kind = ir.VectorType(ir.IntType(32), count)
        low = builder.shuffle_vector(vector, undefined, ir.Constant(kind, list(range(count))))
        high = builder.shuffle_vector(vector, undefined, ir.Constant(kind, list(range(count, 2 * count))))
        vector = fold(low, high)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


@_instruction
def total(typing: Any, value: types.Type):
    """Sum of the lanes, pairwise."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _folded(builder, arguments[0], builder.fadd)

    return types.float32(value), generate


@_instruction
def smallest(typing: Any, value: types.Type):
    """The smallest of the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def fold(low: Any, high: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", low, high), low, high)

        return _folded(builder, arguments[0], fold)

    return types.float32(value), generate


@_instruction
def exp2_negative(typing: Any, value: types.Type):
    """2^x for x <= 0, relative error 2e-7; x below -120 counts as -120, so no exponent underflows into the sign."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: float) -> Any:
            return ir.Constant(_FLOATS, [number] * LANES)

        fused = _fused(builder)
        least = constant(_LEAST_EXPONENT)
        x = builder.select(builder.fcmp_ordered(">", arguments[0], least), arguments[0], least)
        # Truncation rounds x - 1/2 <= 0 upwards, i.e. to the nearest whole number of x.
        whole = builder.fptosi(builder.fsub(x, constant(0.5)), _INTS)
        rest = builder.fsub(x, builder.sitofp(whole, _FLOATS))
        power = constant(_float32(_EXP2[0]))
        for coefficient in _EXP2[1:]:
            power = builder.call(fused, [power, rest, constant(_float32(coefficient))])
        exponent = builder.add(whole, ir.Constant(_INTS, [127] * LANES))
        scale = builder.shl(exponent, ir.Constant(_INTS, [23] * LANES))
        return builder.fmul(power, builder.bitcast(scale, _FLOATS))

    return LANES_TYPE(value), generate


def _float32(number: float) -> float:
    """The nearest float32: LLVM requires exact constants."""
    return float(np.float32(number))
