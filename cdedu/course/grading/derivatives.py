"""Derivatives of functions that live in another process: by ``backward``, by ``torch.autograd.grad``, and by ``torch.func``.

Backward (``backward``, ``autograd.grad``, ``torch.func.grad``, ``vjp``, ``jacrev``) the graph goes on at the other side: each end keeps its
own part, and :class:`Link` joins them. So functions may close over what is differentiated.

Forward and over batches (``torch.func.jvp``, ``jacfwd``, ``torch.vmap``) there is no graph to join. The other side is asked for the
transformed function in place of the function (:class:`Call`), and torch's own rules put the transforms together in any order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

MOST = 6
"""Transforms of one function: four make a matrix of second derivatives, and each may double the work."""


class _Slot:
    """Where a tensor stands among arguments."""


SLOT = _Slot()


# --- what a tensor is, beneath torch's transforms --------------------------------------------------


@dataclass
class Look:
    """A tensor's layers: ``torch.func`` wraps a tensor once for each transform that is going on.

    Args:
        use: is given the innermost tensor, outside of all transforms; other code cannot read its numbers.
    """

    use: Callable[[Tensor], Any] = lambda x: None
    used: Any = None
    """What it returned."""
    layers: list[Tensor] = field(default_factory=list)
    """From the inside to the outside."""
    forward: bool = False
    """Whether a derivative goes forward along with it."""
    size: int = 0
    """Of the innermost batch for which it stands, if it stands for one."""
    index: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Which row of that batch it is, as a tensor of the batch."""

    @classmethod
    def at(cls, value: Tensor, use: Callable[[Tensor], Any] = lambda x: None) -> "Look":
        """The look at one tensor."""
        look = cls(use)
        look.index = _Look.apply(look, value).detach()
        return look

    @property
    def carried(self) -> bool:
        """Whether it is more than numbers and a graph behind them."""
        return self.forward or self.size > 0

    @property
    def tracked(self) -> bool:
        """Whether a graph leads to it, at any layer."""
        return any(layer.requires_grad for layer in self.layers)

    def behind(self, peer: Any) -> tuple[list[Tensor], list[int]]:
        """From what it was computed on this side: leaves of ours, and by its key there each tensor that came from the other."""
        leaves, keys, seen = [], [], set[Any]()
        todo = [layer.grad_fn for layer in self.layers]
        if self.layers and todo[0] is None:
            leaves.append(self.layers[0])
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if getattr(node, "peer", None) is peer:
                keys.append(node.key)  # type: ignore[attr-defined]
            elif hasattr(node, "variable"):
                leaves.append(node.variable)
            else:
                todo += [before for before, _ in node.next_functions]
        return leaves, list(dict.fromkeys(keys))


class _Look(Function):
    """Passes through the layers of a tensor, and notes them; torch calls a rule of it for each."""

    @staticmethod
    def forward(look: Look, value: Tensor) -> Tensor:
        look.used = look.use(value.detach())
        return torch.zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        inputs[0].layers.append(inputs[1])
        ctx.look = inputs[0]

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> Tensor:
        ctx.look.forward = True
        return torch.zeros(())

    @staticmethod
    def vmap(info: Any, in_dims: Any, look: Look, value: Tensor) -> tuple[Tensor, int]:
        _Look.apply(look, value.select(in_dims[1], 0))
        look.size = info.batch_size
        return torch.arange(float(info.batch_size)), 0


# --- backward: two halves of one graph ------------------------------------------------------------


class Leaf(Function):
    """A tensor of the other side, whose leaves get their gradients where those of this side do: in ``backward``, and not in ``autograd.grad``.

    ``anchor`` is a leaf of this side, without which there would be no gradient to be told.
    """

    @staticmethod
    def forward(peer: Any, key: int, anchor: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.peer_of_leaf, ctx.key_of_leaf = inputs[:2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        ctx.peer_of_leaf.request("accumulate", ctx.key_of_leaf, gradient)
        return (None,) * 4

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        raise TypeError(CLOSED)


class Link(Function):
    """In a graph, the place of a tensor that the other side computed: ``inputs`` are ours from which it did so."""

    @staticmethod
    def forward(peer: Any, key: int, keys: list[int], value: Tensor, *inputs: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.peer, ctx.key, ctx.keys = inputs[:3]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The other side's part of the chain rule; of ``value`` too, where leaves get their gradients."""
        # Asked for our part alone: what lies behind this link, the other side goes through itself.
        if ctx.peer.asked:
            return (None,) * (4 + len(ctx.keys))
        found = backward(ctx.peer, ctx.key, ctx.keys, gradient) if ctx.keys else ()
        return None, None, None, gradient, *found

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> Tensor:
        raise TypeError(CLOSED)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        raise TypeError(CLOSED)


CLOSED = "a function that is handed in closes over a tensor that torch.func.jvp or torch.vmap works on; give it as an argument"


def backward(peer: Any, key: int, keys: list[int], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by the other side's tensors ``keys``, which can be differentiated again; of a batch, one after another."""
    look = Look.at(gradient)
    if not look.size:
        return tuple(peer.request("gradients", key, gradient, keys, torch.is_grad_enabled()))
    rows = [backward(peer, key, keys, _Row.apply(i, look.index, gradient)) for i in range(look.size)]

    def whole(column: tuple[Tensor | None, ...]) -> Tensor | None:
        if any(row is None for row in column):
            return None
        return torch.stack(column).index_select(0, look.index.long().reshape(1)).squeeze(0)  # type: ignore[arg-type]

    return tuple(map(whole, zip(*rows, strict=True)))


class _Row(Function):
    """One row of the innermost batch."""

    @staticmethod
    def forward(i: int, index: Tensor, value: Tensor) -> Tensor:
        raise AssertionError("there is no batch")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.i, ctx.index, _ = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, torch.where(ctx.index == ctx.i, gradient, 0)

    @staticmethod
    def vmap(info: Any, in_dims: Any, i: int, index: Tensor, value: Tensor) -> tuple[Tensor, None]:
        return value.select(in_dims[2], i), None


# --- forward, and over batches: the other side transforms its function ------------------------------


@dataclass(frozen=True)
class Ask:
    """A function of the other side, and what is to be done to it."""

    peer: Any
    key: int
    form: Any
    """Its arguments, with slots for the tensors among them."""
    ways: tuple[tuple[Any, ...], ...] = ()
    found: list[Any] = field(default_factory=list)
    """The form of what it returns."""

    def by(self, *way: Any) -> "Ask":
        """With one transform more."""
        return replace(self, ways=(*self.ways, way))


class Call(Function):
    """A call of a function of the other side whose derivatives and batches are calls of it as well."""

    @staticmethod
    def forward(ask: Ask, *tensors: Tensor) -> tuple[Tensor, ...]:
        form, values = ask.peer.request(
            "transformed", ask.key, ask.form, list(tensors), [list(way) for way in ask.ways]
        )
        ask.found[:] = [form]
        return tuple(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        ctx.ask, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.mark_non_differentiable(*(value for value in output if not value.is_floating_point()))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        moving = [
            i for i, tangent in enumerate(tangents) if tangent is not None and tangent.is_floating_point()
        ]
        ask = ctx.ask.by("jvp", moving)
        changes = Call.apply(ask, *ctx.saved_tensors, *(tangents[i] for i in moving))
        return tuple(change if change.is_floating_point() else None for change in changes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        tensors = ctx.saved_tensors
        found = iter(Call.apply(ctx.ask.by("vjp", len(tensors), wanted), *tensors, *gradients))
        return None, *(next(found) if i in wanted else None for i in range(len(tensors)))

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, ask: Ask, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        values = Call.apply(ask.by("vmap", list(in_dims[1:]), info.randomness), *tensors)
        return values, (0,) * len(values)


def call(peer: Any, key: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a function of the other side with arguments that carry derivatives forward, or stand for batches."""
    form, tensors = _slots([list(arguments), options])
    ask = Ask(peer, key, form)
    values = Call.apply(ask, *tensors)
    return _filled(ask.found[0], iter(values))


def is_carried(arguments: Any) -> bool:
    """Whether a derivative goes forward through one of the tensors among them, or one stands for a batch."""
    return any(isinstance(v, Tensor) and Look.at(v).carried for v in tree_flatten(arguments)[0])


def transformed(
    function: Callable[..., Any], form: Any, tensors: list[Tensor], ways: list[list[Any]]
) -> tuple[Any, list[Tensor]]:
    """What a function of ours, transformed, gives for tensors in the slots of ``form``: the form of its values, and their tensors."""
    if len(ways) > MOST:
        raise ValueError(f"{len(ways)} transforms of one function are too many; at most {MOST}")
    found: list[Any] = []

    def plain(*given: Tensor) -> tuple[Tensor, ...]:
        arguments, options = _filled(form, iter(given))
        form_of_value, values = _slots(function(*arguments, **options))
        found[:] = [form_of_value]
        return tuple(values)

    made = plain
    for name, *how in ways:
        made = _WAYS[name](made, *how)
    values = list(made(*tensors))
    return found[0], values


def _slots(value: Any) -> tuple[Any, list[Tensor]]:
    leaves, spec = tree_flatten(value)
    form = tree_unflatten([SLOT if isinstance(v, Tensor) else v for v in leaves], spec)
    return form, [v for v in leaves if isinstance(v, Tensor)]


def _filled(form: Any, tensors: Iterator[Tensor]) -> Any:
    return tree_map(lambda v: next(tensors) if v is SLOT else v, form)


def _of(function: Callable[..., Any], tensors: tuple[Tensor, ...], which: list[int]) -> Callable[..., Any]:
    """A function of some of its tensors, with the others where they are."""

    def some(*given: Tensor) -> Any:
        new = dict(zip(which, given, strict=True))
        return function(*(new.get(i, tensor) for i, tensor in enumerate(tensors)))

    return some


def _jvp(function: Callable[..., Any], which: list[int]) -> Callable[..., Any]:
    def change(*given: Tensor) -> Any:
        n = len(given) - len(which)
        some = _of(function, given[:n], which)
        return torch.func.jvp(some, tuple(given[i] for i in which), given[n:])[1]

    return change


def _vjp(function: Callable[..., Any], n: int, which: list[int]) -> Callable[..., Any]:
    def pulled(*given: Tensor) -> Any:
        some = _of(function, given[:n], which)
        return torch.func.vjp(some, *(given[i] for i in which))[1](given[n:])

    return pulled


def _vmap(function: Callable[..., Any], dims: list[int | None], randomness: str) -> Callable[..., Any]:
    made: Callable[..., Any] = torch.vmap(function, tuple(dims), randomness=randomness)
    return made


_WAYS: dict[str, Callable[..., Callable[..., Any]]] = {"jvp": _jvp, "vjp": _vjp, "vmap": _vmap}
