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
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Fused = tuple[str, list[float], str]
"""An activation as oneDNN's operators name it: attribute, scalars, algorithm."""
_NONE: Fused = ("none", [], "")


def fast_copy(network: nn.Module, example: Tensor, dtype: torch.dtype) -> nn.Module:
    """A copy of a network on the processor, packed, with everything else in `dtype`.

    Parameters
    ----------
    network : Module
        In float32 and evaluation mode; not modified.
    example : Tensor of shape (n, 3, height, width), float32
        An input to watch the network with.
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
    flow = _Flow(network, example)
    _fold_batch_norms(network, flow)
    for path, module in list(network.named_modules()):
        _replace_by_packed(network, path, module, flow.fused.get(module, _NONE), dtype)
    return network.to(dtype)


class _Flow:
    """Which module's output another one takes, observed in one run."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.producer: dict[nn.Module, nn.Module] = {}
        self.calls: dict[nn.Module, int] = {}
        self.fused: dict[nn.Module, Fused] = {}
        self._made_by: dict[int, nn.Module] = {}
        self._kept: list[Tensor] = []  # so that no two tensors have one id
        watched = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, *_ACTIVATIONS)
        hooks = [m.register_forward_hook(self._saw) for m in network.modules() if isinstance(m, watched)]
        network(example)
        for hook in hooks:
            hook.remove()
        self._made_by.clear()
        self._kept.clear()

    def _saw(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
            return
        made_by = self._made_by.get(id(inputs[0]))
        if made_by is not None:
            self.producer[module] = made_by
        self._made_by[id(output)] = module
        self._kept += [inputs[0], output]

    def before(self, module: nn.Module) -> nn.Module | None:
        """The module whose output is this one's input, if both run once."""
        producer = self.producer.get(module)
        once = self.calls.get(module) == 1 and producer is not None and self.calls.get(producer) == 1
        return producer if once else None


def _fold_batch_norms(network: nn.Module, flow: _Flow) -> None:
    """Fold each batch norm into the convolution before it, and the activation after it into both."""
    where = {module: path for path, module in network.named_modules()}
    after = {flow.before(module): module for module in flow.producer if _activation(module) is not None}
    for norm in [module for module in flow.producer if isinstance(module, nn.BatchNorm2d)]:
        conv = flow.before(norm)
        if not (isinstance(conv, nn.Conv2d) and _packable(conv)) or norm.running_mean is None:
            continue
        folded = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = folded.weight, folded.bias
        activation = getattr(norm, "act", None)  # timm's BatchNormAct2d
        if isinstance(activation, nn.Module) and _activation(activation) is None:
            network.set_submodule(where[norm], activation)
            continue
        follower = activation if isinstance(activation, nn.Module) else after.get(norm)
        network.set_submodule(where[norm], nn.Identity())
        if follower is not None:
            flow.fused[conv] = _activation(follower) or _NONE
        if follower is not None and follower is after.get(norm):
            network.set_submodule(where[follower], nn.Identity())
    for module in [m for m in flow.producer if isinstance(m, nn.GELU)]:
        linear = flow.before(module)
        if type(linear) is nn.Linear:
            flow.fused[linear] = _activation(module) or _NONE
            network.set_submodule(where[module], nn.Identity())


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.GELU, nn.SiLU, nn.Identity)


def _activation(module: nn.Module) -> Fused | None:
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
