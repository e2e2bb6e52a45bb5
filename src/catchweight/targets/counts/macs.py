"""Multiply-adds of one operator call, from its operands' shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.fx import Node

Shape = tuple[int, ...]
Arguments = Mapping[str, Any]
"""Of one call by its schema's names; tensors are given as their shapes, lists of tensors as tuples of shapes."""

_FREE = """
    add sub rsub mul div neg abs exp log sqrt rsqrt square pow sign reciprocal floor ceil round clamp
    clamp_min clamp_max maximum minimum where masked_fill sigmoid tanh relu relu6 hardtanh hardsigmoid
    hardswish silu gelu mish elu selu celu leaky_relu prelu _prelu_kernel softplus softmax _softmax
    log_softmax _log_softmax logical_not logical_and logical_or eq ne lt le gt ge erf sin cos lerp addcmul
    addcdiv isnan floor_divide remainder fmod glu threshold log1p expm1 logit batch_norm native_batch_norm
    _native_batch_norm_legit_no_training cudnn_batch_norm layer_norm native_layer_norm group_norm
    native_group_norm instance_norm rms_norm _fused_rms_norm local_response_norm linalg_vector_norm norm
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mean sum amax amin max
    min argmax argmin var std var_mean std_mean cumsum any all sort topk upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_bicubic2d upsample_trilinear3d grid_sampler grid_sampler_2d affine_grid_generator view reshape
    _unsafe_view flatten unflatten squeeze unsqueeze permute transpose t numpy_T expand expand_as repeat
    repeat_interleave tile select slice narrow split split_with_sizes chunk unbind cat concat stack pad
    constant_pad_nd reflection_pad2d replication_pad2d roll flip rot90 movedim moveaxis swapaxes unfold im2col
    col2im pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle index index_select gather
    scatter embedding contiguous clone copy to _to_copy type_as alias detach dropout feature_dropout
    alpha_dropout zeros_like ones_like full_like empty_like new_zeros new_ones new_full zeros ones full arange
    linspace fill slice_scatter select_scatter tril triu meshgrid broadcast_tensors as_strided view_as
    diagonal lift_fresh_copy getitem
"""
FREE = frozenset(_FREE.split())
"""Operators that the field does not count: elementwise work, norms, pooling and reductions, interpolation, layout."""


def node_macs(node: Node) -> int | None:
    """Multiply-adds of a call in an exported graph: 0 of a free operator, None of one that nobody here knows."""
    if not hasattr(node.target, "_schema"):
        return 0 if getattr(node.target, "__name__", "") in FREE else None
    kind = node.target._schema.name.split("::")[-1].removesuffix("_")
    if kind in FREE:
        return 0
    rule = RULES.get(kind)
    return None if rule is None else rule(_arguments(node), _shape(node.meta["val"]))


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Pairwise from left to right, as torch contracts without an optimiser; one operand is layout or a sum, free."""
    terms, _, result = equation.replace(" ", "").partition("->")
    sides = [_letters(term, len(shape)) for term, shape in zip(terms.split(","), shapes, strict=True)]
    length = {name: n for side, shape in zip(sides, shapes, strict=True) for name, n in _lengths(side, shape)}
    # A broadcast axis is as long as the longest operand's.
    for side, shape in zip(sides, shapes, strict=True):
        length |= {name: max(n, length[name]) for name, n in _lengths(side, shape)}
    wanted = _letters(result, -1) if result else []
    total, have = 0, set(sides[0])
    for index, side in enumerate(sides[1:], start=1):
        both = have | set(side)
        total += prod(length[name] for name in both)
        later = {name for rest in sides[index + 1 :] for name in rest}
        have = {name for name in both if name in later or name in wanted or not result}
    return total


def _convolution(given: Arguments, out: Shape) -> int:
    if given.get("transposed"):
        return _transposed(given, out)
    return prod(out) * prod(given["weight"][1:])


def _transposed(given: Arguments, out: Shape) -> int:
    """Every input value meets the whole kernel of its group, also where the result is cropped by padding."""
    return prod(given["input"]) * prod(given["weight"][1:])


def _linear(given: Arguments, out: Shape) -> int:
    return prod(out) * given["input"][-1]


def _product(first: str) -> Callable[[Arguments, Shape], int]:
    return lambda given, out: prod(out) * given[first][-1]


def _attention(given: Arguments, out: Shape) -> int:
    """Scores and their product with the values; a causal mask spares nothing, as kernels and counters have it."""
    query, key, value = given["query"], given["key"], given["value"]
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(given: Arguments, out: Shape) -> int:
    return einsum_macs(given["equation"], given["tensors"])


RULES: dict[str, Callable[[Arguments, Shape], int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _product("self")),
    **dict.fromkeys(("addmm",), _product("mat1")),
    **dict.fromkeys(("baddbmm",), _product("batch1")),
    **dict.fromkeys(
        (
            "scaled_dot_product_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_attention_math",
            "_scaled_dot_product_cudnn_attention",
        ),
        _attention,
    ),
    "einsum": _einsum,
}
"""One rule a counted operator, named as ATen does without overload. A new one is a function and a line."""


def _arguments(node: Node) -> dict[str, Any]:
    named = zip(node.target._schema.arguments, node.args, strict=False)  # type: ignore[union-attr]
    return {argument.name: _plain(value) for argument, value in named} | {
        name: _plain(value) for name, value in node.kwargs.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Node):
        return _shape(value.meta["val"])
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry) for entry in value)
    return value


def _shape(value: Any) -> Shape:
    if isinstance(value, (list, tuple)):
        value = value[0]
    return tuple(int(length) for length in value.shape) if isinstance(value, torch.Tensor) else ()


def _letters(term: str, axes: int) -> list[str]:
    """Names of a term's axes; those of an ellipsis are numbered from the right, so that they broadcast."""
    if "..." not in term:
        return list(term)
    left, right = term.split("...")
    hidden = axes - len(left) - len(right) if axes >= 0 else 16
    return [*left, *(f".{number}" for number in range(hidden, 0, -1)), *right]


def _lengths(names: Sequence[str], shape: Shape) -> list[tuple[str, int]]:
    return list(zip(names, shape, strict=True))
