"""Tensors that claim to be on another device and compute on the CPU: device discipline without that device.

PyTorch's FakeTensorMode claims devices, too, but its tensors have no values: conditioning and fits, in which values
decide about shapes, cannot run on them, and nothing can be compared with the CPU. Here values are real. What a GPU
would refuse is refused (tensors of two devices in one operation, a generator of the other device), and what would make
the host wait for a GPU is counted, and refused inside `Machine.no_waiting`.

Autograd looks for a device's streams on the way back, and finds no CUDA here ("hasPrimaryContext"). It asks "lazy" for
none, so training steps claim that device: mixing is refused alike, only code that asks for `device.type == "cuda"`
takes its other branch.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

aten = torch.ops.aten
# What returns values, or shapes that depend on values, to the host.
WAITS = {
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default),
    *(aten.is_nonzero.default, aten.unique_dim.default, aten._unique2.default, aten.repeat_interleave.Tensor),
    *(aten.bincount.default, aten.unique_consecutive.default),
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class DeviceError(AssertionError):
    """What a device would refuse, or what makes the host wait where it must not."""


class Claimed(Tensor):
    """A tensor on a claimed device; `value` is what it holds."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor, device: torch.device) -> "Claimed":
        made = Tensor._make_wrapper_subclass(
            cls, value.size(), strides=value.stride(), dtype=value.dtype, device=device, requires_grad=False
        )
        made.value = value
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Claimed({self.value!r}, {self.device})"

    def tolist(self) -> Any:
        """As of a tensor of a device, through a copy on the host."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN206
        assert Machine.present is not None, "claimed tensors live inside a Machine"
        return Machine.present.call(func, args, kwargs or {})


class Machine(TorchDispatchMode):
    """A machine with one more device.

    Args:
        device: its name; "cuda" for what goes forward only, see above.

    Attributes:
        uploads: tensors of more than one value that were copied to the device.
        downloads: copies to the host.
        waits: operations by name whose values the host has asked for.
    """

    present: "Machine | None" = None

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        # In the place of the fake mode: PyTorch then starts no driver when a tensor is made on the device.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        # Likewise where it switches between devices.
        torch._C._ensureCUDADeviceGuardSet()
        self.device = torch.device(device, 0)
        self.uploads = self.downloads = 0
        self.waits: Counter[str] = Counter()
        self.forbidden = False

    def __enter__(self) -> "Machine":
        assert Machine.present is None
        Machine.present = self
        # A device that autocast knows nothing of has none to turn off.
        self.autocast = torch.autocast
        if self.device.type == "lazy":
            torch.autocast = lambda *_, **__: nullcontext()  # pyright: ignore
        # Tensors made of numbers come to the device by an operation that modes see.
        self.lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self.lifting)
        torch.autocast = self.autocast
        Machine.present = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        return self.call(func, args, kwargs or {})

    def holds(self, value: Tensor) -> Claimed:
        """A tensor on the device with these values."""
        return Claimed(value.detach(), self.device)

    def moved(self, module: nn.Module) -> nn.Module:
        """The same module with its parameters and buffers on the device."""
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                claimed = nn.Parameter(self.holds(parameter), parameter.requires_grad)
                part._parameters[name] = claimed
            for name, buffer in part.named_buffers(recurse=False):
                part._buffers[name] = self.holds(buffer)
        return module

    @contextmanager
    def no_waiting(self) -> Iterator[None]:
        """Refuse inside the block whatever makes the host wait for the device."""
        self.forbidden = True
        try:
            yield
        finally:
            self.forbidden = False

    def call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """An operation, as this machine would do it."""
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, Claimed)]
        asked = kwargs.get("device")
        asked = None if asked is None else torch.device(asked)
        if not here and (asked is None or asked.type != self.device.type):
            return func(*args, **kwargs)
        if func is aten._to_copy.default:
            return self._copied(args[0], asked, kwargs)
        if func is aten.copy_.default:
            return self._copied_into(*args[:2])
        if func is aten._fused_sdp_choice.default:
            return 0  # the plain one, which is made of operations that every device has
        self._check(func, tensors, here, kwargs)
        if func in WAITS or (func in INDEXING and self._by_masks(args)):
            self._wait(func)
        values = tree_map_only(Claimed, lambda tensor: tensor.value, (args, kwargs))
        own = dict(values[1])
        if asked is not None:
            own["device"] = "cpu"
        made = func(*values[0], **own)
        wrapped = tree_map(lambda leaf: Claimed(leaf, self.device) if isinstance(leaf, Tensor) else leaf, made)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _check(self, func: Any, tensors: list[Tensor], here: list[Claimed], kwargs: dict[str, Any]) -> None:
        """Refuse what the device would."""
        # Single values may come from the host, and indices, which are copied.
        others = [tensor for tensor in tensors if not isinstance(tensor, Claimed) and tensor.ndim]
        if func in INDEXING:
            others = [tensor for tensor in others if tensor.dtype not in (torch.int64, torch.int32)]
            self.uploads += sum(not isinstance(tensor, Claimed) for tensor in tensors)
        if here and others:
            raise DeviceError(f"{func} mixes {self.device} and cpu: {[tuple(tensor.shape) for tensor in tensors]}")
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != self.device.type:
            raise DeviceError(f"{func} draws on {self.device} from a generator of {generator.device}")

    @staticmethod
    def _by_masks(args: tuple) -> bool:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])

    def _wait(self, func: Any) -> None:
        if self.forbidden:
            raise DeviceError(f"{func} makes the host wait for {self.device}")
        self.waits[str(func)] += 1

    def _copied(self, source: Tensor, asked: torch.device | None, kwargs: dict[str, Any]) -> Tensor:
        to_host = asked is not None and asked.type == "cpu"
        if to_host:
            self._wait(aten._to_copy.default)
            self.downloads += 1
        elif not isinstance(source, Claimed):
            self.uploads += source.numel() > 1
        value = source.value if isinstance(source, Claimed) else source
        # A copy, also where only the device changes.
        made = aten._to_copy.default(value, **{**kwargs, "device": torch.device("cpu")})
        return made if to_host else Claimed(made, self.device)

    def _copied_into(self, target: Tensor, source: Tensor) -> Tensor:
        if not isinstance(target, Claimed):
            self._wait(aten.copy_.default)
            self.downloads += 1
        elif not isinstance(source, Claimed):
            self.uploads += source.numel() > 1
        values = [tensor.value if isinstance(tensor, Claimed) else tensor for tensor in (target, source)]
        values[0].copy_(values[1])
        return target
