"""Converts a JAX function to ONNX, for the operations that our networks use.

The conversion walks the function's jaxpr: what depends on the weights alone is computed, the rest becomes nodes. Images
keep their layout, ``[n, H, W, C]``. ONNX has convolutions for ``[n, C, H, W]`` only, so each stands between two
transpositions, most of which onnxruntime cancels. (The package jax2onnx needs an older Orbax than training does.)
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import onnx
from jax import export
from onnx import TensorProto, helper, numpy_helper

from rvae_jax.errors import UserError

OPSET = 17  # of 2022; onnxruntime reads it since 1.12
IR_VERSION = 8  # of 2022 as well

_Equation = jax.extend.core.JaxprEqn

_SAME = {  # primitives with an equal ONNX operation
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "min": "Min",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "copy": "Identity",
    "stop_gradient": "Identity",
}
# Primitives that call an inner jaxpr, and the parameter that holds it.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
# Primitives whose result keeps the name of a known input.
_OF_SHAPE = {"reshape", "squeeze", "broadcast_in_dim", "transpose"}
_TO_THE_END = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """An array that does not depend on the input, and its name in the graph."""

    array: np.ndarray
    name: str = "constant"


# The value of a variable of the jaxpr: a known array, or the name of a value of the graph.
_Value = _Known | str


def to_onnx(
    function: Callable[[Any, jax.Array], Any],
    weights: Any,
    item: tuple[int, ...],
    *,
    input_name: str,
    output_names: Sequence[str],
    description: str = "",
) -> onnx.ModelProto:
    """Converts ``x -> function(weights, x)``, where ``x`` is float32 ``[batch, *item]`` with any ``batch``.

    Args:
      function: a pure function that returns one or several float32 arrays with the batch first.
      weights: float32 arrays; those that the function uses become initializers, named by their path.
      item: shape of one image or code.
      input_name: name of ``x`` in the graph.
      output_names: names of the results in the graph.
      description: text for readers of the file.

    Raises:
      UserError: the function uses an operation that is not converted.
    """
    (batch,) = export.symbolic_shape("batch")
    places, structure = jax.tree_util.tree_flatten_with_path(weights)

    def flat(leaves: list[jax.Array], x: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(function(jax.tree.unflatten(structure, leaves), x))

    leaves = [_Known(np.asarray(leaf), _path_name(path)) for path, leaf in places]
    argument = jax.ShapeDtypeStruct((batch, *item), jnp.float32)
    closed = jax.make_jaxpr(flat)([leaf.array for leaf in leaves], argument)
    graph = _Graph()
    results = graph.walk(closed.jaxpr, closed.consts, [*leaves, graph.unique(input_name)])
    for result, name in zip(results, output_names, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.value(result)], [name]))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *var.aval.shape[1:]])
        for name, var in zip(output_names, closed.jaxpr.outvars, strict=True)
    ]
    made = helper.make_graph(
        graph.nodes,
        "rvae_jax",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", *item])],
        outputs,
        list(graph.initializers.values()),
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rvae_jax",
        doc_string=description,
    )


class _Graph:
    """A graph under construction.

    Attributes:
      nodes: nodes so far.
      initializers: tensors by name.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._stored: dict[_Known, str] = {}
        self._used: collections.Counter[str] = collections.Counter()

    def walk(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[_Value]) -> list[_Value]:
        """Adds the nodes of a jaxpr, and returns its results."""
        values: dict[Any, _Value] = {
            var: _Known(np.asarray(const)) for var, const in zip(jaxpr.constvars, consts, strict=True)
        }
        values |= zip(jaxpr.invars, arguments, strict=True)

        def read(atom: Any) -> _Value:
            return _Known(np.asarray(atom.val)) if isinstance(atom, jax.extend.core.Literal) else values[atom]

        for equation in jaxpr.eqns:
            results = self._results(equation, [read(atom) for atom in equation.invars])
            values |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, equation: _Equation, inputs: list[_Value]) -> list[_Value]:
        name = equation.primitive.name
        if name in _CALLS:
            inner = equation.params[_CALLS[name]]
            return self.walk(inner.jaxpr, inner.consts, inputs)
        if name == "platform_index":  # takes the branch for all platforms without one of their own
            return [_Known(np.asarray(equation.params["platforms"].index(None)))]
        if name == "cond" and isinstance(inputs[0], _Known):
            branch = equation.params["branches"][int(inputs[0].array)]
            return self.walk(branch.jaxpr, branch.consts, inputs[1:])
        is_fixed = all(isinstance(size, int) for var in equation.outvars for size in var.aval.shape)
        if is_fixed and all(isinstance(each, _Known) for each in inputs):
            result = np.asarray(equation.primitive.bind(*(each.array for each in inputs), **equation.params))
            return [_Known(result, inputs[0].name if name in _OF_SHAPE else f"{_scope(equation)}/{name}")]
        if name in _SAME:
            return [self.node(equation, _SAME[name], inputs)]
        if name not in _CONVERTED:
            raise UserError(f"ONNX: the operation {name} is not converted")
        return [_CONVERTED[name](self, equation, inputs)]

    def node(self, equation: _Equation, kind: str, inputs: Sequence[_Value], **attributes: Any) -> str:
        """Adds a node with one output, and returns the output's name."""
        output = self.unique(f"{_scope(equation)}/{kind}")
        names = [self.value(each) for each in inputs]
        self.nodes.append(helper.make_node(kind, names, [output], name=output, **attributes))
        return output

    def value(self, value: _Value) -> str:
        """The name of a value; a known array becomes an initializer."""
        if isinstance(value, str):
            return value
        if value not in self._stored:
            name = self._stored[value] = self.unique(value.name)
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value.array), name)
        return self._stored[value]

    def unique(self, name: str) -> str:
        """``name``, with a number if it is taken."""
        name = name.strip("/")
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}_{self._used[name]}"


def _scope(equation: _Equation) -> str:
    """The part of the network that it belongs to, such as ``encoder/stage_0/down/conv_1``."""
    return "/".join(part for part in str(equation.source_info.name_stack).split("/") if "." not in part)


def _path_name(path: Sequence[Any]) -> str:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removeprefix("params/").removeprefix("batch_stats/")


def _integers(values: Sequence[int]) -> _Known:
    return _Known(np.array(values, np.int64))


def _max(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    x, y = inputs
    is_relu = isinstance(y, _Known) and y.array.ndim == 0 and y.array == 0
    return graph.node(equation, "Relu", [x]) if is_relu else graph.node(equation, "Max", inputs)


def _rsqrt(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    return graph.node(equation, "Reciprocal", [graph.node(equation, "Sqrt", inputs)])


def _square(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    return graph.node(equation, "Mul", [inputs[0], inputs[0]])


def _convert(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> _Value:
    if equation.params["new_dtype"] != np.float32 or equation.invars[0].aval.dtype != np.float32:
        raise UserError(f"ONNX: the function computes in {equation.params['new_dtype']}; expected float32 only")
    return inputs[0]


def _select(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    which, if_false, if_true = inputs
    return graph.node(equation, "Where", [which, if_true, if_false])


def _reshape(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    """Converts reshape, squeeze, and a broadcast_in_dim that repeats nothing."""
    before, after = equation.invars[0].aval, equation.outvars[0].aval
    unknown = [size for size in after.shape if not isinstance(size, int)]
    if before.size != after.size or len(unknown) > 1:
        raise UserError(f"ONNX: {equation.primitive.name} from {before.shape} to {after.shape} is not converted")
    shape = [size if isinstance(size, int) else -1 for size in after.shape]
    return graph.node(equation, "Reshape", [inputs[0], _integers(shape)])


def _broadcast(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    """Converts a broadcast along dimensions of size 1; any other is a reshape."""
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    is_along = len(before) == len(after) and before != after
    shape = [1 if old == new else new for old, new in zip(before, after, strict=False)]
    if not is_along or not all(isinstance(size, int) for size in shape):
        return _reshape(graph, equation, inputs)
    return graph.node(equation, "Expand", [inputs[0], _integers(shape)])


def _transpose(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    return graph.node(equation, "Transpose", inputs, perm=equation.params["permutation"])


def _slice(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    starts, rank = equation.params["start_indices"], len(equation.params["start_indices"])
    ends = [size if isinstance(size, int) else _TO_THE_END for size in equation.params["limit_indices"]]
    steps = equation.params["strides"] or (1,) * rank
    return graph.node(equation, "Slice", [inputs[0], *map(_integers, (starts, ends, range(rank), steps))])


def _reduce_sum(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    return graph.node(equation, "ReduceSum", [inputs[0], _integers(equation.params["axes"])], keepdims=0)


def _dot(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    if equation.params["dimension_numbers"] != (((1,), (0,)), ((), ())):
        raise UserError("ONNX: only products of two matrices are converted")
    return graph.node(equation, "MatMul", inputs)


def _convolution(graph: _Graph, equation: _Equation, inputs: list[_Value]) -> str:
    """Converts a convolution; over a dilated input it is a transposed convolution with the kernel rotated by 180°."""
    params = equation.params
    of_input, of_kernel, of_output = params["dimension_numbers"]
    x, kernel = inputs
    x = graph.node(equation, "Transpose", [x], perm=of_input)
    if isinstance(kernel, str):
        raise UserError("ONNX: a convolution whose kernel depends on the input is not converted")
    weight = dataclasses.replace(kernel, array=kernel.array.transpose(of_kernel))
    low, high = zip(*params["padding"], strict=True)
    if set(params["lhs_dilation"]) == {1}:
        y = graph.node(
            equation,
            "Conv",
            [x, weight],
            strides=params["window_strides"],
            dilations=params["rhs_dilation"],
            pads=[*low, *high],
        )
    else:
        rotated = dataclasses.replace(weight, array=weight.array[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
        sizes = weight.array.shape[2:]
        pads = [size - 1 - pad for side in (low, high) for size, pad in zip(sizes, side, strict=True)]
        y = graph.node(equation, "ConvTranspose", [x, rotated], strides=params["lhs_dilation"], pads=pads)
    return graph.node(equation, "Transpose", [y], perm=np.argsort(of_output).tolist())


_CONVERTED = {
    "max": _max,
    "rsqrt": _rsqrt,
    "square": _square,
    "convert_element_type": _convert,
    "select_n": _select,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "slice": _slice,
    "reduce_sum": _reduce_sum,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
}
