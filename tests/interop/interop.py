"""Trains a short Self-NPO job on a tiny pipeline that diffusers made, exports it in every form, and
compares: diffusers and peft load each of them, and draw from our starting noise what we draw, to 1e-3.

Usage: interop.py BUILD (run.sh does it)."""
import json
import os
import subprocess
import sys
import tempfile

import diffusers
import peft
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BUILD = os.path.abspath(sys.argv[1])
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
import tiny_model

PROMPT, STEPS, SCALE, TOLERANCE = "a photo of a circle", 8, 3.0, 1e-3
torch.set_grad_enabled(False)
for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
failures = []


def report(name, worst, tolerance=TOLERANCE):
    good = worst <= tolerance
    print(f"{'PASSED' if good else 'FAILED'}  {name}: {worst:.3g}", flush=True)
    if not good:
        failures.append(name)


def randomise(module, generator):
    """Weights at a scale that keeps every layer's output near 1."""
    for name, p in module.named_parameters():
        if p.dim() >= 2 and "norm" not in name:
            p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
        elif name.endswith("bias"):
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return module.eval()


def make_pipeline(folder, seed):
    generator = torch.Generator().manual_seed(seed)
    tiny_model.write_tokenizer(folder + "/tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder + "/tokenizer")
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=tiny_model.TOKENS, projection_dim=32,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))
    unet = UNet2DConditionModel(sample_size=16, block_out_channels=(16, 16, 32, 32), layers_per_block=2,
                                cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8)
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(16, 16, 32), layers_per_block=1,
                        down_block_types=("DownEncoderBlock2D",) * 3,
                        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=8)
    # A random network predicts a small v: then x0 is about a x, so that trajectories stay bounded.
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                              prediction_type="v_prediction")
    randomise(unet, generator).conv_out.weight.mul_(0.3)
    pipe = StableDiffusionPipeline(
        vae=randomise(vae, generator), text_encoder=randomise(text, generator), tokenizer=tokenizer,
        unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder)


def load(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(box, name, model, negative="-"):
    """Our starting noise, latent and picture, channels first with a batch of one."""
    out = f"{box}/{name}.latents"
    subprocess.run([BUILD + "/tests/tools/npo-latents", model, negative, out, str(SCALE), str(STEPS),
                    PROMPT], check=True)
    return {k: v.permute(2, 0, 1)[None] for k, v in load_file(out).items()}


def compare(name, mine, latent, image):
    """latent: as diffusers leaves it; image in 0..1."""
    report(name + ", latent", (latent - mine["latent"]).abs().max().item())
    report(name + ", picture", (image - (mine["image"] / 2 + 0.5).clamp(0, 1)).abs().max().item())


def check_pipeline(name, pipe, mine):
    """The pipeline as its users call it."""
    arguments = dict(num_inference_steps=STEPS, guidance_scale=SCALE, latents=mine["noise"])
    compare(name, mine, pipe(PROMPT, output_type="latent", **arguments).images,
            pipe(PROMPT, output_type="pt", **arguments).images)


def check_two_networks(name, pipe, negative, mine):
    """The unconditional branch by another UNet."""
    cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    pipe.scheduler.set_timesteps(STEPS)
    x = mine["noise"]
    for t in pipe.scheduler.timesteps:
        e, n = pipe.unet(x, t, cond).sample, negative(x, t, uncond).sample
        x = pipe.scheduler.step(n + SCALE * (e - n), t, x).prev_sample
    image = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    compare(name, mine, x, (image / 2 + 0.5).clamp(0, 1))


def weights(folder):
    return load_file(folder + "/unet/diffusion_pytorch_model.safetensors")


def check_lora(box, base, name, merged):
    """load_lora_weights of a LoRA file against the pipeline that we merged it into."""
    pipe = load(base)
    pipe.load_lora_weights(box, weight_name=name)
    mine = ours(box, name, merged)
    moved = (mine["latent"] - load_file(box + "/base.latents")["latent"].permute(2, 0, 1)).abs().max()
    assert moved > 10 * TOLERANCE, f"the LoRA moves a sample by {moved} only: nothing is compared"
    check_pipeline(f"{name} by load_lora_weights", pipe, mine)


def check_peft(box, base, name, merged):
    """peft itself, without diffusers' loader."""
    state = {k.removeprefix("unet."): v for k, v in load_file(f"{box}/{name}").items()}
    ranks = {k.removesuffix(".lora_A.weight"): v.shape[0] for k, v in state.items() if "lora_A" in k}
    config = peft.LoraConfig(r=1, lora_alpha=1, target_modules=list(ranks), rank_pattern=ranks,
                             alpha_pattern=ranks)
    model = peft.inject_adapter_in_model(config, load(base).unet)
    result = peft.set_peft_model_state_dict(model, state)
    assert not result.unexpected_keys, result.unexpected_keys
    x, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)), torch.tensor([500])
    context = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(4))
    expected = load(merged).unet.eval()(x, t, context).sample
    report(f"{name} by peft", (model.eval()(x, t, context).sample - expected).abs().max().item())


def train(box, base):
    job = {"recipe": "self-npo", "model": base, "prompts": [PROMPT, "a photo of a cross", "noise"],
           "round_steps": 3, "train": {"steps": 6, "batch": 4, "lr": 1e-3}}
    with open(box + "/job.json", "w") as file:
        json.dump(job, file)
    ctl(box, "submit", box + "/job.json", "--wait")


def ctl(box, command, *arguments):
    subprocess.run([BUILD + "/ctl/npoctl", command, "--state", box + "/state", *arguments], check=True,
                   stdout=subprocess.DEVNULL)


def export(box, name, *options, source="1"):
    ctl(box, "export", source, f"{box}/{name}", *options)
    return f"{box}/{name}"


def check_networks(box, base, fine):
    negative = export(box, "negative")
    check_pipeline("base", load(base), ours(box, "base", base))
    check_two_networks("negative", load(base), load(negative).unet,
                       ours(box, "two", base, negative))
    merged = export(box, "merged", "--form", "merge", "--positive", fine, "--alpha", "0.5")
    check_pipeline("merge", load(merged), ours(box, "merged", merged))
    one = export(box, "one", "--form", "one-network", "--weight", "0.5")
    check_pipeline("one-network", load(one), ours(box, "one", one))
    half = export(box, "half", "--beta", "0.5", "--dtype", "f16")
    check_pipeline("negative in f16", load(half), ours(box, "half", half))
    b, n, f, m, o = (weights(folder) for folder in (base, negative, fine, merged, one))
    report("merge against torch", max(
        (m[k] - (b[k] + 0.5 * (f[k] - b[k]) + n[k] - b[k])).abs().max().item() for k in b), 1e-6)
    report("one-network against torch",
           max((o[k] - (b[k] - 0.5 * (n[k] - b[k]))).abs().max().item() for k in b), 1e-6)
    delta = load_file(export(box, "delta.safetensors", "--form", "delta"))
    report("delta against torch", max((delta[k] - (n[k] - b[k])).abs().max().item() for k in b), 1e-7)


def check_loras(box, base):
    for name, options in (("peft.safetensors", []), ("kohya.safetensors", ["--naming", "kohya"]),
                          ("attention.safetensors", ["--layers", "attention"]),
                          ("half.safetensors", ["--dtype", "f16"])):
        export(box, name, "--form", "lora", "--rank", "4", *options)
        merged = export(box, "with-" + name.split(".")[0], "--model", base, source=f"{box}/{name}")
        check_lora(box, base, name, merged)
        if name != "kohya.safetensors":
            check_peft(box, base, name, merged)


def main(box):
    base, fine = box + "/model", box + "/fine"
    make_pipeline(base, 1)
    make_pipeline(fine, 2)
    ctl(box, "up", "--workers", "1", "-d")
    try:
        train(box, base)
        check_networks(box, base, fine)
        check_loras(box, base)
    finally:
        ctl(box, "down")
    print(f"{len(failures)} failed" if failures else "all passed")
    return 1 if failures else 0


with tempfile.TemporaryDirectory(prefix="npo-interop-") as folder:
    sys.exit(main(folder))
