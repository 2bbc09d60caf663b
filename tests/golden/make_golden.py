#!/usr/bin/env python3
"""Writes the goldens of this folder that are not copies of the reference cases: UNets with options
that those leave at their defaults, the classifier, and safetensors files.

Usage: make_golden.py OUT CLASSIFIER TOKENIZER, where CLASSIFIER is a trained classifier's
safetensors file and TOKENIZER a tokenizer's folder (sd15-tiny/tokenizer). Made with torch 2.15,
diffusers 0.42, transformers 5.23, safetensors 0.8 (f32, CPU). The folders of UNets, VAEs and the
XL model hold what tests/reference-cases reads.
"""

import json, math, os, shutil, sys
import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

OUT, CLASSIFIER, TOKENIZER = sys.argv[1:4]
gen = torch.Generator().manual_seed(11)
rn = lambda *s: torch.randn(s, generator=gen)


def path(*parts):
    p = os.path.join(OUT, *parts)
    os.makedirs(os.path.dirname(p), exist_ok=True)
    return p


def randomise(m):
    for n, p in m.named_parameters():
        if p.dim() >= 2 and "norm" not in n:
            p.copy_(rn(*p.shape) / math.sqrt(p[0].numel()))
        elif n.endswith("bias"):
            p.copy_(0.1 * rn(*p.shape))
        else:
            p.copy_(1 + 0.2 * rn(*p.shape))
    return m.eval()


def first(o):
    return o[0] if isinstance(o, tuple) else o


def unet(name, size, added=None, **config):
    """added: of a network with text-time conditioning, its pooled text and time ids."""
    with torch.no_grad():
        m = randomise(UNet2DConditionModel(**config))
    m.save_pretrained(path(name, "unet", ""))
    got, paths = {}, ["time_embedding", "conv_in"]
    paths += [f"down_blocks.{i}" for i in range(len(m.down_blocks))] + (
        ["mid_block"] if m.mid_block else []
    )
    paths += [f"up_blocks.{i}" for i in range(len(m.up_blocks))]
    for p in paths:
        m.get_submodule(p).register_forward_hook(
            lambda _, __, o, p=p: got.update({"out." + p: first(o).detach().clone()})
        )
    cin, cout = config.get("in_channels", 4), config.get("out_channels", 4)
    x, t = rn(2, cin, *size).requires_grad_(), torch.tensor([3, 871])
    c, target = rn(2, 5, config.get("cross_attention_dim", 16)).requires_grad_(), rn(2, cout, *size)
    pooled, time_ids = added or (None, None)
    conditions = added and {"text_embeds": pooled.requires_grad_(), "time_ids": time_ids}
    y = m(x, t, c, added_cond_kwargs=conditions).sample
    loss = (y - target).square().mean()
    loss.backward()
    d = {
        "x": x.detach(),
        "t": t,
        "context": c.detach(),
        "y": y.detach(),
        "target": target,
        "loss": loss.detach().view(1),
        "grad.x": x.grad,
        **got,
    }
    if c.grad is not None:
        d["grad.context"] = c.grad
    if added:
        d.update({"pooled": pooled.detach(), "time_ids": time_ids, "grad.pooled": pooled.grad})
    save_file({k: v.contiguous() for k, v in d.items()}, path(name, "unet-case.safetensors"))
    save_file(
        {k: p.grad.contiguous() for k, p in m.named_parameters()},
        path(name, "unet-case-grads.safetensors"),
    )


def unets():
    # sides that halving does not divide, linear projections, heads and depth a level
    unet(
        "unet-odd",
        (15, 9),
        block_out_channels=(8, 12, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=[1, 2, 4],
        transformer_layers_per_block=[1, 1, 2],
        use_linear_projection=True,
    )
    # no attention at all, other time embedding, asymmetric padding, other kernels and channels
    unet(
        "unet-plain",
        (8, 8),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=[1, 2],
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2D",
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        time_embedding_dim=24,
        conv_in_kernel=1,
        conv_out_kernel=5,
        in_channels=3,
        out_channels=6,
        cross_attention_dim=16,
        sample_size=(8, 8),
    )
    # no mid block, transformer depths an attention, heads that do not divide the channels
    unet(
        "unet-depths",
        (8, 4),
        block_out_channels=(8, 12),
        norm_num_groups=4,
        layers_per_block=[2, 1],
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        mid_block_type=None,
        transformer_layers_per_block=[[1, 2], [2]],
        reverse_transformer_layers_per_block=[[1, 2], [1, 1, 2]],
        attention_head_dim=5,
        cross_attention_dim=16,
    )
    # attention only down at one level and only up at the other, scaled mid block
    unet(
        "unet-mixed",
        (6, 8),
        block_out_channels=(8, 8),
        norm_num_groups=2,
        norm_eps=1e-3,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_scale_factor=1.5,
        attention_head_dim=2,
        cross_attention_dim=16,
    )


PROMPTS = ["a photo of a sneaker", "", "An ankle boot, grey picture; 3 bags!"]


def tokenizer(name, part, pad):
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(os.path.join(TOKENIZER, file), path(name, part, file))
    config = json.load(open(os.path.join(TOKENIZER, "tokenizer_config.json")))
    json.dump({**config, "pad_token": pad}, open(path(name, part, "tokenizer_config.json"), "w"), indent=1)
    return CLIPTokenizer.from_pretrained(TOKENIZER, pad_token=pad)


def text_encoder(name, part, cls, tok, hidden, layers, act, projection):
    m = randomise(
        cls(
            CLIPTextConfig(
                vocab_size=len(tok),
                hidden_size=hidden,
                intermediate_size=4 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=2,
                max_position_embeddings=tok.model_max_length,
                hidden_act=act,
                projection_dim=projection,
                bos_token_id=tok.bos_token_id,
                eos_token_id=tok.eos_token_id,
            )
        )
    )
    m.save_pretrained(path(name, part, ""))
    ids = tok(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids, m(ids, output_hidden_states=True)


def xl():
    """A whole Stable Diffusion XL folder."""
    name = "sdxl-small"
    with torch.no_grad():
        tok_1 = tokenizer(name, "tokenizer", "<|endoftext|>")
        tok_2 = tokenizer(name, "tokenizer_2", "!")
        ids_1, o_1 = text_encoder(name, "text_encoder", CLIPTextModel, tok_1, 8, 2, "quick_gelu", 8)
        ids_2, o_2 = text_encoder(
            name, "text_encoder_2", CLIPTextModelWithProjection, tok_2, 12, 3, "gelu", 10
        )
        context = torch.cat([o_1.hidden_states[-2], o_2.hidden_states[-2]], -1)
        text = {"ids_1": ids_1, "ids_2": ids_2, "context": context, "pooled": o_2.text_embeds}
        save_file(text, path(name, "text.safetensors"))
    unet(
        name,
        (8, 6),
        added=(rn(2, 10), torch.tensor([[1024.0, 768, 0, 0, 1024, 1024], [512, 640, 16, 8, 1024, 512]])),
        sample_size=8,
        block_out_channels=(8, 12),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=20,
        attention_head_dim=[1, 2],
        transformer_layers_per_block=[1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=6 * 6 + 10,
    )
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_pretrained(path(name, "scheduler", ""))
    json.dump(
        {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
        open(path(name, "model_index.json"), "w"),
        indent=1,
    )


def older_names(file):
    """Writes the attention's tensors as diffusers did before 0.12, two of them as convolutions."""
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for k, v in load_file(file).items():
        for new, older in names.items():
            if new in k and v.dim() == 2 and new != ".to_v.":
                v = v[:, :, None, None]
            k = k.replace(new, older)
        old[k] = v.contiguous()
    save_file(old, file)


def vae(name, image, latent, tile, **config):
    """tile: of the latent, for diffusers' tiled encoding and decoding."""
    levels = len(config["block_out_channels"])
    with torch.no_grad():
        m = randomise(
            AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                **config,
            )
        )
        m.save_pretrained(path(name, "vae", ""))
        x, z = rn(2, 3, *image).clamp(-1, 1), rn(2, m.config.latent_channels, *latent)
        q = m.encode(x).latent_dist
        d = {"image": x, "mean": q.mean, "logvar": q.logvar, "latent": z, "decoded": m.decode(z).sample}
        m.enable_tiling()
        m.tile_latent_min_size, m.tile_sample_min_size = tile, tile * 2 ** (levels - 1)
        q = m.encode(x).latent_dist
        d.update({"tiled.mean": q.mean, "tiled.logvar": q.logvar, "tiled.decoded": m.decode(z).sample})
    d["tile"] = torch.tensor([tile])
    save_file({k: v.contiguous() for k, v in d.items()}, path(name, "vae.safetensors"))


def vaes():
    vae("vae-tiny", (44, 36), (9, 13), 4, block_out_channels=(4, 4, 8), norm_num_groups=2)
    # no 1x1 convolutions, a shifted latent of three channels, the oldest names
    vae(
        "vae-old",
        (34, 16),
        (9, 6),
        8,
        block_out_channels=(4, 8),
        layers_per_block=2,
        norm_num_groups=4,
        latent_channels=3,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.36,
        shift_factor=0.12,
    )
    older_names(path("vae-old", "vae", "diffusion_pytorch_model.safetensors"))
    vae(
        "vae-plain",
        (8, 12),
        (12, 7),
        4,
        block_out_channels=(4,),
        norm_num_groups=2,
        mid_block_add_attention=False,
    )


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        n = torch.nn
        self.f = n.Sequential(
            n.Conv2d(1, 32, 3, padding=1),
            n.ReLU(),
            n.MaxPool2d(2),
            n.Conv2d(32, 64, 3, padding=1),
            n.ReLU(),
            n.MaxPool2d(2),
            n.Flatten(),
            n.Linear(64 * 49, 128),
            n.ReLU(),
        )
        self.o = n.Linear(128, 10)


def classifier():
    weights = {k: v.half() for k, v in load_file(CLASSIFIER).items()}
    m = Classifier()
    m.load_state_dict({k: v.float() for k, v in weights.items()})
    x = rn(3, 1, 28, 28).clamp(-1, 1)
    with torch.no_grad():
        f = m.f(x)
        save_file(weights, path("unit", "classifier", "model.safetensors"))
        save_file(
            {"images": x, "features": f, "logits": m.o(f)},
            path("unit", "classifier", "case.safetensors"),
        )


def safetensors():
    mixed = {
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.tensor([[1.5, -2.0, 65504.0], [6e-8, 0.1, -0.0]], dtype=torch.float16),
        "brain": torch.tensor([1.0, 3.14159, -1e30], dtype=torch.bfloat16),
        "int": torch.tensor([-7, 2**31 - 1], dtype=torch.int32),
        "long": torch.tensor([2**40, -1]),
        "float": torch.tensor([[0.1], [2.5e-40]]),
        "scalar": torch.tensor(4.25),
        "none": torch.zeros(0, 3),
        "näme/“q”\\": torch.ones(1),
    }
    save_file(mixed, path("unit", "safetensors", "mixed.safetensors"), metadata={"format": "pt"})
    a, b = {"a": torch.arange(6.0).view(2, 3), "c": torch.ones(2)}, {"b": torch.full((4,), 2.0)}
    save_file(a, path("unit", "safetensors", "part-1.safetensors"))
    save_file(b, path("unit", "safetensors", "part-2.safetensors"), metadata={"format": "pt"})
    names = {**{k: "part-1.safetensors" for k in a}, **{k: "part-2.safetensors" for k in b}}
    json.dump(
        {"metadata": {"total_size": 48}, "weight_map": names},
        open(path("unit", "safetensors", "model.safetensors.index.json"), "w"),
        indent=1,
    )


def lowrank():
    """Matrices in f16 and the singular values that numpy (LAPACK) computes from them in f64."""
    rng, out = np.random.default_rng(14), {}
    for name, rows, columns, falls in (
        ("noise", 60, 24, None),  # singular values all alike
        ("slow", 300, 320, 1.0),  # falling as 1 / (1 + i): too large to be decomposed whole
        ("steep", 320, 288, 3.0),
    ):
        a = rng.standard_normal((rows, columns))
        if falls:
            u, _, v = np.linalg.svd(a, full_matrices=False)
            a = (u * (1.0 + np.arange(len(v))) ** -falls) @ v
        a = a.astype(np.float16)
        s = np.linalg.svd(a.astype(np.float64), compute_uv=False)
        out[name + ".matrix"] = torch.from_numpy(a)
        out[name + ".values"] = torch.from_numpy(s.astype(np.float32))
    save_file(out, path("unit", "lowrank", "matrices.safetensors"))


unets()
classifier()
safetensors()
vaes()
lowrank()
xl()
