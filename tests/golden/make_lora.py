#!/usr/bin/env python3
"""Writes unit/lora/case.safetensors: what peft computes with a LoRA on every layer of unet-mixed,
and the gradients of its matrices. Images are channels last. Made with peft 0.21, diffusers 0.42.
"""
import math
import pathlib

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
RANK, ALPHA = 3, 5


def channels_last(x):
    return x.detach().permute(0, 2, 3, 1).contiguous()


def main():
    torch.manual_seed(21)
    unet = UNet2DConditionModel.from_pretrained(HERE / "unet-mixed" / "unet")
    layers = [n for n, m in unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers)
    model = get_peft_model(unet, config)
    matrices = {n.replace("base_model.model.", "").replace(".default", ""): p
                for n, p in model.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, p in matrices.items():
            fan_in = p[0].numel()
            p.copy_(torch.randn_like(p) / math.sqrt(fan_in) * (1 if "lora_A" in name else 0.5))
    x, target = torch.randn(2, 4, 6, 4), torch.randn(2, 4, 6, 4)
    t, context = torch.tensor([3, 871]), torch.randn(2, 5, 16)
    y = model(x, t, context).sample
    loss = (y - target).square().mean()
    loss.backward()
    tensors = {"x": channels_last(x), "target": channels_last(target), "y": channels_last(y),
               "t": t.float(), "context": context, "loss": loss.detach().view(1)}
    for name, p in matrices.items():
        tensors[name] = p.detach().clone()
        tensors["grad." + name] = p.grad.clone()
    (HERE / "unit" / "lora").mkdir(parents=True, exist_ok=True)
    save_file(tensors, HERE / "unit" / "lora" / "case.safetensors")


if __name__ == "__main__":
    main()
