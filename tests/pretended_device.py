"""A device that is pretended, for machines without a GPU: it computes, and refuses other tensors.

Its tensors hold others on the processor, with which everything is computed; an operation on one of
them and a tensor that was made somewhere else is an error, as between a GPU and the processor. To
torch it is the device `meta`, the one that needs no support of its own. Scalars may meet it, and
indices, as they may meet a GPU's.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}


class There(torch.Tensor):
    """A tensor on the pretended device; `held` is what it is made of."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _done(operation, args, kwargs or {})


def _held(value):
    return value.held if isinstance(value, There) else value


def _is_there(device):
    return device is not None and torch.device(device) == DEVICE


def _done(operation, args, kwargs):
    name = operation._schema.name
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    any_there = any(isinstance(t, There) for t in tensors)
    if name == "aten::_to_copy":
        rest = {k: v for k, v in kwargs.items() if k != "device"}
        made = operation(_held(args[0]), **rest)
        to_there = _is_there(kwargs["device"]) if kwargs.get("device") is not None else any_there
        return There(made) if to_there else made
    if name == "aten::copy_":
        _held(args[0]).copy_(_held(args[1]))
        return args[0]
    elsewhere = [tuple(t.shape) for t in tensors if not isinstance(t, There) and t.dim()]
    if any_there and elsewhere and name not in INDEXING:
        raise RuntimeError(f"{name}: tensors of shape {elsewhere} are not on the device")
    if not any_there and not _is_there(kwargs.get("device")):
        return operation(*args, **kwargs)
    inner = tree_map(_held, kwargs)
    if "device" in inner:
        inner["device"] = torch.device("cpu")
    made = operation(*tree_map(_held, args), **inner)
    wrapped = tree_map(lambda t: There(t) if isinstance(t, torch.Tensor) else t, made)
    return return_and_correct_aliasing(operation, args, kwargs, wrapped)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _done(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What does not come to be as an operation: tensors of lists, and lists of tensors."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            return There(function(*args, **{**kwargs, "device": "cpu"}))
        if function is torch.Tensor.tolist:
            return _held(args[0]).tolist()
        return function(*args, **kwargs)


@contextmanager
def pretended():
    """Within the block tensors may be on the device."""
    with _Functions(), _Operations():
        yield


def there(model):
    """A copy of a model on the device."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                held = There(p.detach())
                module._parameters[name] = torch.nn.Parameter(held, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = There(buffer)
    return model
