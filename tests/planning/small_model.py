"""A causal language model of two blocks with the names of Llama's layers; made in milliseconds."""

import types

import torch
from torch import nn

V = 40


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(width, width, bias=False))

    def forward(self, x):
        scores = self.q_proj(x) @ self.k_proj(x).transpose(-1, -2) / x.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        return self.o_proj(scores.softmax(-1) @ self.v_proj(x))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.self_attn, self.mlp, self.norm = Attention(width), Mlp(width), nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.self_attn(self.norm(x))
        return x + self.mlp(self.norm(x))


class SmallModel(nn.Module):
    """`interrupt_at`: the call, counted from 1, that ends in KeyboardInterrupt."""

    def __init__(self, layers=2, width=32):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(V, width)
        self.model.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.lm_head = nn.Linear(width, V, bias=False)
        self.calls, self.interrupt_at = 0, None

    def forward(self, input_ids, attention_mask=None):
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        x = self.model.embed_tokens(input_ids)
        for block in self.model.layers:
            x = block(x)
        return types.SimpleNamespace(logits=4 * self.lm_head(x))


def small_model(**options):
    return SmallModel(**options).eval()


def ids(*shape, seed=1):
    return torch.randint(0, V, shape, generator=torch.Generator().manual_seed(seed))
