"""MatMul and Gemm: constant weights absorb maps along the axes that they bring or that are summed over.

pull    C(x W + b) = x C(W) + C(b)              the weight is centered along its output axis, the bias like a value
push    (s·x + t) W + b = x (s·W) + (t W + b)   the weight is scaled along its input axis, the bias is shifted
"""

from __future__ import annotations

import string

from normswap import maps
from normswap.maps import Deferred, Map, Shape
from normswap.reference import attribute, attribute_float
from normswap.transfer.einsum import BROADCAST, Product, passed, placed, seen, whole
from normswap.transfer.passing import times
from normswap.transfer.step import Blocked, Request, Step, labels


def matmul(request: Request) -> Step | Blocked:
    """MatMul, of matrices, stacks of matrices and vectors."""
    dims = request.dims(0), request.dims(1)
    if dims[0] is None or dims[1] is None or not dims[0] or not dims[1]:
        return Blocked("unknown-shape", "a product of operands of unknown rank")
    return passed(Product.of(request, *_letters(len(dims[0]), len(dims[1]))))


def _letters(left: int, right: int) -> tuple[str, str, str]:
    """What a MatMul of operands of these ranks is as an Einsum; stacks are aligned at the last axis."""

    def stack(rank: int) -> str:
        return string.ascii_uppercase[-(rank - 2) :] if rank > 2 else ""

    rows, columns = "m" if left > 1 else "", "n" if right > 1 else ""
    return stack(left) + rows + "k", stack(right) + "k" + columns, stack(max(left, right)) + rows + columns


def gemm(request: Request) -> Step | Blocked:
    """Gemm: alpha · A' B' + beta · C."""
    if request.at == 2:
        return _on_bias(request)
    left, right = (attribute(request.node, name, 0) for name in ("transA", "transB"))
    product = Product.of(request, "km" if left else "mk", "nk" if right else "kn", "mn")
    if isinstance(product, Blocked):
        return product
    return _gemm_pull(product) if request.at is None else _gemm_push(product, request.at)


def _gemm_pull(product: Product) -> Step | Blocked:
    request, a_map, beta = product.request, product.request.map, _beta(product.request)
    if a_map.shifts and beta == 0:
        return Blocked("no-bias", "a Gemm whose bias is multiplied by zero")
    found = product.before(maps.linear(a_map))
    if isinstance(found, Blocked):
        return found
    inputs, constants = placed(request, *found)
    created: dict[int, Shape] = {}
    if beta != 0:
        on_bias = times(a_map, 1 / beta)  # beta · C' = T(beta · C) where C' = L(C) + t / beta
        if request.value(2) is not None:
            split = labels(request, {2: on_bias})
            if isinstance(split, Blocked):
                return split
            inputs, constants = inputs | split[0], constants | split[1]
        elif a_map.shifts:
            created[2], constants[2] = _new_bias(product, on_bias)
    kept = seen(a_map, "mn") | set("mn" if created else "")
    return Step(inputs, {0: a_map}, constants, created, cut=product.cut(kept, _bias_letters(request)))


def _gemm_push(product: Product, at: int) -> Step | Blocked:
    request, a_map, beta = product.request, product.request.map, _beta(product.request)
    answer = product.behind(at, maps.linear(a_map))
    if isinstance(answer, Blocked):
        return answer
    on_weight, out = answer
    if not out.is_identity and request.value(2) is not None and beta != 0:
        return Blocked("does-not-commute", "a sum of which only one operand is mapped")
    constants = {} if on_weight is None else {1 - at: on_weight}
    created: dict[int, Shape] = {}
    if a_map.shifts:
        shift = product.shift(at, attribute_float(request.node, "alpha", 1.0))
        if isinstance(shift, Blocked):
            return shift
        made = maps.affine(2, shift=shift)
        if beta == 0 or not out.is_identity or not (request.value(2) is None or request.is_constant(2)):
            out = Map(out.group, out.scale, shift)
        elif request.value(2) is None:
            created[2], constants[2] = _new_bias(product, times(made, 1 / beta))
        else:
            constants[2] = times(made, 1 / beta)
    outputs = {} if out.is_identity else {0: out}
    kept = whole(product, at, labelled=bool(outputs or created))
    return Step({at: a_map}, outputs, constants, created, cut=product.cut(kept, _bias_letters(request)))


def _on_bias(request: Request) -> Step | Blocked:
    """T on C: a shift of it is one of the output."""
    if request.map.centers or request.map.scales:
        return Blocked("does-not-commute", "a sum of which only one operand is mapped")
    beta = _beta(request)
    out = times(maps.inserted(request.map, 2, range(2 - request.map.rank, 2)), beta)
    return Step({2: request.map}, {0: out} if beta != 0 else {})


def _beta(request: Request) -> float:
    return attribute_float(request.node, "beta", 1.0)


def _bias_letters(request: Request) -> dict[int, str]:
    """The letters of C, which is broadcast to the output."""
    dims = request.dims(2)
    if dims is None:
        return {}
    written = zip("mn"[2 - len(dims) :], dims, strict=True)
    return {2: "".join(BROADCAST if size == 1 else letter for letter, size in written)}


def _new_bias(product: Product, a_map: Map) -> tuple[Shape, Map]:
    """The shape of a C where there was none, and the map that makes it of zeros: [N], where all rows are the same."""
    rows, columns = a_map.shift.shape
    if rows > 1:
        return (rows, columns), maps.affine(2, shift=a_map.shift)
    wide = max(columns, *(product.sizes(index).get("n") or 1 for index in (0, 1)))
    return (wide,), maps.affine(1, shift=Deferred((columns,), lambda: a_map.offset().reshape(columns)))
