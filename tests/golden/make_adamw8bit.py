#!/usr/bin/env python3
"""Writes unit/adamw8bit/case.safetensors: bitsandbytes' 8-bit codes and steps of its AdamW8bit.

Its CPU library finds codes by a coarse table, so quantize_blockwise gets f64 values here: for those
bitsandbytes looks for the nearest code itself. AdamW8bit's update then runs on the CPU as it is.
"""
import pathlib

import bitsandbytes
import bitsandbytes.functional as functional
import torch
from bitsandbytes.backends.cpu import ops
from safetensors.torch import save_file

HYPER = dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
COUNT, STEPS = 4096 + 300, 4  # the last block is not whole


def quantize_exactly(values, code, absmax_out, out, blocksize):
    codes, absmax = torch.ops.bitsandbytes.quantize_blockwise(values.double(), code, blocksize)
    out.copy_(codes)
    absmax_out.copy_(absmax)


def main():
    ops._quant_blockwise_fp32_direct = quantize_exactly
    torch.manual_seed(8)
    tensors = {
        "map.signed": functional.create_dynamic_map(True),
        "map.unsigned": functional.create_dynamic_map(False),
    }
    param = torch.nn.Parameter(torch.randn(COUNT))
    optimizer = bitsandbytes.optim.AdamW8bit([param], **HYPER)
    tensors["start"] = param.detach().clone()
    for step in range(STEPS):
        scale = 10 ** (-4 * torch.rand(COUNT))
        param.grad = torch.randn(COUNT) * scale
        tensors[f"grad.{step}"] = param.grad.clone()
        optimizer.step()
        state = optimizer.state[param]
        tensors[f"param.{step}"] = param.detach().clone()
        for name, key in [("exp_avg", "state1"), ("exp_avg_sq", "state2"),
                          ("exp_avg_absmax", "absmax1"), ("exp_avg_sq_absmax", "absmax2")]:
            tensors[f"{name}.{step}"] = state[key].clone().reshape(-1)
    folder = pathlib.Path(__file__).parent / "unit" / "adamw8bit"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "case.safetensors",
              metadata={"made_by": f"bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}"})


if __name__ == "__main__":
    main()
