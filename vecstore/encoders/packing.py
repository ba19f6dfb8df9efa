"""A frozen network made fast on a processor: batch norms folded, activations fused, weights packed once.

PyTorch's eager mode rearranges a layer's weights at each call and reads and writes the activations once more for
each batch norm and activation. oneDNN's operators (those that torch.compile emits, but without its compiler
and its minute of waiting) take weights packed beforehand and do the rest on the way. Biases stay in float32, which
makes bfloat16 more accurate than PyTorch's own (EfficientNet-Lite0: cosine to float32 0.99968 against 0.99950).

What follows what is observed in a run, not guessed from names; `fast_copy` is checked against the network it
replaces by whoever asks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Self, TypeGuard

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.weak import WeakIdKeyDictionary

Fused = tuple[str, list[float], str]
"""An activation as oneDNN's operators name it: attribute, scalars, algorithm."""
_NONE: Fused = ("none", [], "")


class Flow:
    """One run of a network: its output, and which module's output another one takes.

    Modules are known by their paths, so that what is seen in a network holds for its copies.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    example : Tensor of shape (n, 3, height, width)

    Attributes
    ----------
    output : Tensor
        What the network gave.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self._producer: dict[str, str] = {}
        self._calls: dict[str, int] = {}
        # Tensors by identity; what is changed in place after it was made (x += shortcut) has a later version.
        self._made_by: WeakIdKeyDictionary = WeakIdKeyDictionary()
        hooks = []
        for path, module in network.named_modules():
            if isinstance(module, _WATCHED):
                hooks.append(module.register_forward_pre_hook(partial(self._takes, path)))
                hooks.append(module.register_forward_hook(partial(self._gives, path)))
        try:
            with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode have no versions
                self.output = network(example)
        finally:
            for hook in hooks:
                hook.remove()

    def _takes(self, path: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._calls[path] = self._calls.get(path, 0) + 1
        if inputs and isinstance(inputs[0], Tensor) and inputs[0] in self._made_by:
            made_by, version = self._made_by[inputs[0]]
            if version == inputs[0]._version:
                self._producer[path] = made_by

    def _gives(self, path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self._made_by[output] = path, output._version

    def pairs(self) -> dict[str, str]:
        """From the module that takes to the module that gives, where both run once."""
        return {
            taker: giver
            for taker, giver in self._producer.items()
            if self._calls[taker] == 1 and self._calls[giver] == 1
        }


def fast_copy(network: nn.Module, flow: Flow, dtype: torch.dtype) -> nn.Module:
    """A copy of a network on the processor, packed, with everything else in `dtype`.

    Parameters
    ----------
    network : Module
        In float32 and evaluation mode; not modified.
    flow : Flow
        Of this network.
    dtype : torch.dtype
        float32 or bfloat16.

    Returns
    -------
    Module
        Takes inputs of `dtype`, of any batch size.

    Raises
    ------
    RuntimeError, AttributeError, NotImplementedError
        This build of PyTorch lacks the operators, or the network is not made to be changed.
    """
    network = copy.deepcopy(network)
    fused = _fold_batch_norms(network, flow.pairs()) | _fuse_gelu(network, flow.pairs())
    exact = {id(module) for part in network.modules() if isinstance(part, InFloat32) for module in part.modules()}
    for path, module in list(network.named_modules()):
        own = torch.float32 if id(module) in exact else dtype
        _replace_by_packed(network, path, module, fused.get(path, _NONE), own)
    return network.to(dtype)


class InFloat32(nn.Module):
    """A part of a network that stays in float32 whatever the rest is converted to.

    Parameters
    ----------
    part : Module
        From one tensor to one tensor.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """Compute in float32, and give the type that came."""
        made: Tensor = self.part(x.float())
        return made.to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self


def _fold_batch_norms(network: nn.Module, pairs: dict[str, str]) -> dict[str, Fused]:
    """Fold each batch norm into the convolution before it; returns what to fuse into which convolution."""
    fused: dict[str, Fused] = {}
    modules = dict(network.named_modules())
    followers = {giver: taker for taker, giver in pairs.items() if _activation(modules[taker]) is not None}
    for path, before in pairs.items():
        norm, conv = modules[path], modules[before]
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or not _packable(conv):
            continue
        folded = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = folded.weight, folded.bias
        inner = getattr(norm, "act", None)  # timm's BatchNormAct2d
        if isinstance(inner, nn.Module):
            network.set_submodule(path, nn.Identity() if _activation(inner) is not None else inner)
            fused[before] = _activation(inner) or _NONE
            continue
        network.set_submodule(path, nn.Identity())
        if path in followers:
            fused[before] = _activation(modules[followers[path]]) or _NONE
            network.set_submodule(followers[path], nn.Identity())
    return fused


def _fuse_gelu(network: nn.Module, pairs: dict[str, str]) -> dict[str, Fused]:
    """Take out each GELU after a linear layer; returns what to fuse into which layer."""
    fused: dict[str, Fused] = {}
    modules = dict(network.named_modules())
    for path, before in pairs.items():
        if type(modules[path]) is nn.GELU and type(modules[before]) is nn.Linear:
            fused[before] = _activation(modules[path]) or _NONE
            network.set_submodule(path, nn.Identity())
    return fused


_WATCHED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.Hardtanh, nn.GELU, nn.SiLU)


def _activation(module: nn.Module) -> Fused | None:
    """How oneDNN names what a module does; None if it does something else."""
    if type(module) is nn.Identity:
        return _NONE
    if type(module) is nn.ReLU:
        return "relu", [], ""
    if isinstance(module, nn.Hardtanh):  # and ReLU6
        return "hardtanh", [float(module.min_val), float(module.max_val)], ""
    if type(module) is nn.GELU:
        return "gelu", [], module.approximate
    if type(module) is nn.SiLU:
        return "swish", [], ""
    return None


def _packable(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """A plain convolution, or timm's Conv2dSame; others (weight standardisation …) do more than they say."""
    return type(module).__name__ in ("Conv2d", "Conv2dSame") and isinstance(module, nn.Conv2d) and _zero_padded(module)


def _zero_padded(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _replace_by_packed(network: nn.Module, path: str, module: nn.Module, fused: Fused, dtype: torch.dtype) -> None:
    if _packable(module):
        network.set_submodule(path, PackedConv(module, fused, dtype))
    elif type(module) is nn.MultiheadAttention and _plain_attention(module):
        network.set_submodule(path, PackedAttention(module, dtype))
    elif type(module) is nn.Linear:
        network.set_submodule(path, PackedLinear(module.weight, module.bias, fused, dtype))


def _plain_attention(module: nn.MultiheadAttention) -> bool:
    """Self-attention as vision transformers use it."""
    plain = module._qkv_same_embed_dim and module.batch_first
    return plain and module.bias_k is None and not module.add_zero_attn and module.in_proj_bias is not None


class PackedConv(nn.Module):
    """A convolution with its weights in oneDNN's order, its activation fused and its bias in float32."""

    def __init__(self, conv: nn.Conv2d, fused: Fused, dtype: torch.dtype) -> None:
        super().__init__()
        self._same = type(conv).__name__ == "Conv2dSame"
        self._kernel = conv.kernel_size
        self._stride, self._dilation = list(conv.stride), list(conv.dilation)
        self._padding = [0, 0] if self._same else [int(side) for side in conv.padding]
        self._groups = conv.groups
        self._bias = None if conv.bias is None else conv.bias.detach().float()
        self._fused = fused
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach().to(dtype), self._padding, self._stride, self._dilation, self._groups, None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add the bias, activate."""
        if self._same:
            x = self._pad(x)
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, self._padding, self._stride, self._dilation, self._groups, *self._fused
        )
        return made

    def _pad(self, x: Tensor) -> Tensor:
        """TensorFlow's SAME padding, which depends on the size of the input."""
        high, wide = (
            max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            for side, kernel, stride, dilation in zip(
                x.shape[-2:], self._kernel, self._stride, self._dilation, strict=True
            )
        )
        return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)) if high or wide else x


class PackedLinear(nn.Module):
    """A linear layer with its weights in oneDNN's order, its activation fused and its bias in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None, fused: Fused, dtype: torch.dtype) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)
        self._bias = None if bias is None else bias.detach().float()
        self._fused = fused

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, add the bias, activate."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, *self._fused)
        return made


class PackedAttention(nn.Module):
    """Self-attention over packed projections; takes the arguments of `nn.MultiheadAttention`."""

    def __init__(self, attention: nn.MultiheadAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self._heads = attention.num_heads
        out = attention.out_proj
        self._project_in = PackedLinear(attention.in_proj_weight, attention.in_proj_bias, _NONE, dtype)
        self._project_out = PackedLinear(out.weight, out.bias, _NONE, dtype)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend.

        Raises
        ------
        NotImplementedError
            Query, key and value differ, or weights are asked for.
        """
        if need_weights or key is not query or value is not query:
            raise NotImplementedError("only self-attention without weights is packed")
        n, length, dim = query.shape
        parts = self._project_in(query).view(n, length, 3, self._heads, dim // self._heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask)
        return self._project_out(mixed.transpose(1, 2).reshape(n, length, dim)), None
