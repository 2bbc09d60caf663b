#!/usr/bin/env python3
"""The PyTorch side of the compute benchmarks: seconds a step of the demo network on this machine.

  peer_torch.py train-step MODEL [--batch 64] [--threads 2] [--bf16] [--repeat 8]
  peer_torch.py self-npo-step MODEL ...   six target evaluations with and without the condition,
                                          then the step, as the published program does it
  peer_torch.py unet-forward CONFIG ...   one evaluation of the UNet of a config.json
  peer_torch.py unet-step CONFIG ...      and its gradients; both: the better of eager and compiled
Prints one number: the median over the repeats. Needs torch, diffusers (bench/run.sh installs them).
"""
import argparse
import json
import statistics
import time

import torch
from diffusers import UNet2DConditionModel


def train_step(unet, optimizer, ema, x, t, context, target, bf16):
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = (unet(x, t, context).sample.float() - target).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(unet.parameters()), 0.001)
    return loss.item()


def evaluations(unet, x, t, context, empty, bf16):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        for _ in range(6):
            unet(x, t, context)
            unet(x, t, empty)


def measure(run, repeat):
    times = []
    for i in range(repeat + 2):
        start = time.perf_counter()
        run()
        if i >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def unet_seconds(args):
    with open(args.model) as file:
        config = json.load(file)
    unet = UNet2DConditionModel.from_config(config)
    size = config["sample_size"]
    x = torch.randn(args.batch, config["in_channels"], size, size)
    target = torch.randn_like(x)
    t = torch.randint(0, 1000, (args.batch,))
    context = torch.randn(args.batch, 77, config["cross_attention_dim"])

    def run(network):
        with torch.set_grad_enabled(args.what == "unet-step"):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                y = network(x, t, context).sample
            if args.what == "unet-step":
                unet.zero_grad(set_to_none=True)
                (y.float() - target).square().mean().backward()

    return min(measure(lambda: run(network), args.repeat) for network in (unet, torch.compile(unet)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train-step", "self-npo-step", "unet-forward", "unet-step"])
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.what.startswith("unet"):
        print(unet_seconds(args))
        return
    config = UNet2DConditionModel.load_config(args.model + "/unet")
    unet = UNet2DConditionModel.from_config(config).train()
    ema = UNet2DConditionModel.from_config(config)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, weight_decay=1e-3)
    size = config["sample_size"]
    x = torch.randn(args.batch, config["in_channels"], size, size)
    target = torch.randn_like(x)
    t = torch.randint(0, 1000, (args.batch,))
    context = torch.randn(args.batch, 16, config["cross_attention_dim"])
    empty = torch.randn_like(context)
    times = []
    for repeat in range(args.repeat + 2):
        start = time.perf_counter()
        if args.what == "self-npo-step":
            evaluations(ema, x, t, context, empty, args.bf16)
        train_step(unet, optimizer, ema, x, t, context, target, args.bf16)
        if repeat >= 2:
            times.append(time.perf_counter() - start)
    print(statistics.median(times))


main()
