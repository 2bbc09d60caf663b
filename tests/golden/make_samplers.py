#!/usr/bin/env python3
"""Writes unit/samplers.json: trajectories of diffusers' schedulers with a formula for a denoiser.

Usage: make_samplers.py OUT. Made with torch 2.15 and diffusers 0.42 (f32, CPU). The denoiser is that of
tests/unit/diffusion/fake_denoiser.h: element by element 0.3 x + 0.4 sin(2 x) + 0.1 t / 1000 + c, c = 0.2 for
the prompt, -0.1 for the empty one; a second network is that times "negative". Every sampler has each spacing, both predictions, zero terminal SNR where the
prediction allows it, and Karras' noise levels where the sampler has them. diffusers has none for Euler
ancestral: there its scheduler runs on the levels that EulerDiscreteScheduler places.
"""

import json, os, sys
import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler)

torch.set_grad_enabled(False)
START = [1.5, -0.7, 0.2, -2.1]
SCALE = 3.0
CLASSES = {"ddim": DDIMScheduler, "dpmpp-2m": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler,
           "euler-ancestral": EulerAncestralDiscreteScheduler}


def denoise(x, t, c):
    return 0.3 * x + 0.4 * torch.sin(2 * x) + 0.1 * (t / 1000) + c


def rescale(out, cond, share):
    """rescale_noise_cfg of diffusers' pipelines, with the deviations of all values of the sample as they stand
    there."""
    if not share:
        return out
    return share * out * (cond.std() / out.std()) + (1 - share) * out


def scheduler(row):
    config = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                  prediction_type=row["prediction"], rescale_betas_zero_snr=row["zero_snr"],
                  timestep_spacing=row["spacing"], steps_offset=1)
    if row["sampler"] == "ddim":
        config.update(clip_sample=False, set_alpha_to_one=False)
    elif row["karras"] and row["sampler"] != "euler-ancestral":
        config.update(use_karras_sigmas=True)
    made = CLASSES[row["sampler"]](**config)
    made.set_timesteps(row["steps"])
    if row["karras"] and row["sampler"] == "euler-ancestral":
        levels = EulerDiscreteScheduler(**config, use_karras_sigmas=True)
        levels.set_timesteps(row["steps"])
        made.sigmas, made.timesteps = levels.sigmas, levels.timesteps
    return made


def run(row, noise):
    made = scheduler(row)
    x = torch.tensor(START) * made.init_noise_sigma
    states = []
    drawn = iter(noise)
    if row["sampler"] == "euler-ancestral":
        sys.modules[type(made).__module__].randn_tensor = lambda *a, **k: next(drawn)
    for t in made.timesteps:
        xi = made.scale_model_input(x, t).float()
        cond, empty = denoise(xi, t.float(), 0.2), row["negative"] * denoise(xi, t.float(), -0.1)
        out = rescale(empty + SCALE * (cond - empty), cond, row["rescale"])
        x = made.step(out, t, x).prev_sample
        states.append([float(v) for v in x])
    return {**row, "timesteps": [float(t) for t in made.timesteps], "states": states}


def rows():
    for sampler in CLASSES:
        for karras in (False, True):
            if karras and sampler == "ddim":
                continue
            for spacing in ("leading", "trailing", "linspace"):
                for prediction in ("epsilon", "v_prediction"):
                    for zero_snr in (False, True):
                        if zero_snr and prediction == "epsilon":
                            continue
                        yield dict(sampler=sampler, karras=karras, spacing=spacing, prediction=prediction,
                                   zero_snr=zero_snr, steps=7, rescale=0.0, negative=1.0)
        yield dict(sampler=sampler, karras=False, spacing="trailing", prediction="v_prediction", zero_snr=False,
                   steps=20, rescale=0.7, negative=1.0)
        yield dict(sampler=sampler, karras=False, spacing="leading", prediction="epsilon", zero_snr=False, steps=6,
                   rescale=0.0, negative=0.75)


def main():
    gen = torch.Generator().manual_seed(5)
    noise = torch.randn(20, 4, generator=gen)
    path = os.path.join(sys.argv[1], "unit", "samplers.json")
    with open(path, "w") as file:
        json.dump({"start": START, "noise": noise.tolist(), "rows": [run(row, noise) for row in rows()]}, file,
                  indent=0)
        file.write("\n")


main()
