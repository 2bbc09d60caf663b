#!/usr/bin/env python3
"""Real diffusers draw the pictures of a sample job: text encoder, two networks, negative prompts, guidance
rescale, every sampler, VAE. They start from npo's noise and must give the same bytes but for rounding.

Usage: samples.py BUILD, a build folder with its tests. Needs torch, diffusers, transformers and Pillow from
PyPI; made with torch 2.15, diffusers 0.42, transformers 5.23.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel)
from PIL import Image

import noise

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
import tiny_model

torch.set_grad_enabled(False)
PROMPTS = ["a photo of a sneaker", "Größe 42, a bag"]
NEGATIVE, SEED, STEPS, SCALE, RESCALE = "grey", 11, 6, 3, 0.5
HEIGHT, WIDTH = 32, 48
SHAPE = (4, HEIGHT // 4, WIDTH // 4)
BYTES_APART = 1  # where a value lies between two bytes
CASES = [
    ("ddim", {}, DDIMScheduler, {}),
    ("ddim", {"spacing": "trailing"}, DDIMScheduler, {"timestep_spacing": "trailing"}),
    ("dpmpp-2m", {}, DPMSolverMultistepScheduler, {}),
    ("dpmpp-2m", {"karras": True}, DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    ("euler", {}, EulerDiscreteScheduler, {}),
    ("euler", {"karras": True, "spacing": "trailing"}, EulerDiscreteScheduler,
     {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
    ("euler-ancestral", {}, EulerAncestralDiscreteScheduler, {}),
]


def ours(build, folder, model, sampler, keys):
    spec = {"recipe": "sample", "model": model, "negative": model + "-negative", "prompts": PROMPTS,
            "height": HEIGHT, "width": WIDTH,
            "sample": {"sampler": sampler, "count": len(PROMPTS), "steps": STEPS, "guidance_scale": SCALE,
                       "seed": SEED, "negative_prompt": NEGATIVE, "rescale": RESCALE, **keys}}
    with open(folder + ".json", "w") as file:
        json.dump(spec, file)
    subprocess.run([build + "/tests/tools/npo-job", folder + ".json", folder, "1"], check=True,
                   capture_output=True)
    return [np.asarray(Image.open(f"{folder}/last-images/image-{i:05}.png")).astype(np.float64)
            for i in range(len(PROMPTS))]


def noise_of(purpose, lap):
    return torch.from_numpy(np.stack([noise.latents(SEED, purpose, i, lap, SHAPE) for i in range(len(PROMPTS))]))


def theirs(pipe, negative, kind, config):
    scheduler = kind.from_config(pipe.scheduler.config, **config)
    scheduler.set_timesteps(STEPS)
    step = iter(range(STEPS))
    sys.modules[kind.__module__].randn_tensor = lambda *a, **k: noise_of(noise.SAMPLE_STEP, next(step))
    context = pipe.encode_prompt(PROMPTS, "cpu", 1, False)[0]
    empty = pipe.encode_prompt([NEGATIVE] * len(PROMPTS), "cpu", 1, False)[0]
    x = noise_of(noise.SAMPLE_NOISE, 0) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        cond, uncond = pipe.unet(seen, t, context).sample, negative(seen, t, empty).sample
        out = uncond + SCALE * (cond - uncond)
        ratio = cond.std(dim=[1, 2, 3], keepdim=True) / out.std(dim=[1, 2, 3], keepdim=True)
        x = scheduler.step(RESCALE * out * ratio + (1 - RESCALE) * out, t, x).prev_sample
    images = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)
    return [((image.permute(1, 2, 0).double().numpy() + 1) * 127.5).round() for image in images]


def main(build):
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        model = folder + "/model"
        tiny_model.make_latent(model, model + "-negative")
        pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
        negative = UNet2DConditionModel.from_pretrained(model + "-negative", subfolder="unet")
        for number, (sampler, keys, kind, config) in enumerate(CASES):
            drawn = ours(build, f"{folder}/{number}", model, sampler, keys)
            apart = max(np.abs(a - b).max() for a, b in zip(drawn, theirs(pipe, negative, kind, config)))
            good = apart <= BYTES_APART
            failed += not good
            print(f"{sampler} {keys}: bytes at most {apart:.0f} apart, {'pass' if good else 'FAIL'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
