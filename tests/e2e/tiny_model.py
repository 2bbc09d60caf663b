"""A Stable Diffusion pipeline small enough for tests: 8x8 pixels, one channel, no VAE, in the layout
diffusers publishes. Weights are random but for a path that makes the network predict the noise of pure
noise (eps = x / rms(x)), so that trajectories stay bounded as with a trained model: conv_in writes x
and -x to one normalisation group, the last skip connection carries them to the end, and
silu(x) - silu(-x) = x."""
import json
import os
import random
import shutil
import struct

CHANNELS = (8, 16)
CONTEXT = 16
TOKENS = 8
PROMPTS = ["a photo of a circle", "a photo of a cross", "a photo of a bar", "noise"]


def write_safetensors(path, tensors):
    """tensors: {name: (shape, floats)}, stored as F32 in the order of the names."""
    header, offset = {}, 0
    for name, (shape, values) in sorted(tensors.items()):
        header[name] = {"dtype": "F32", "shape": list(shape),
                        "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (shape, values) in sorted(tensors.items()):
            file.write(struct.pack("<%df" % len(values), *values))


class Weights:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.tensors = {}

    def draw(self, name, *shape):
        count = 1
        for size in shape:
            count *= size
        self.tensors[name] = (shape, [self.random.uniform(-0.05, 0.05) for _ in range(count)])

    def linear(self, name, outputs, inputs, bias=True):
        self.draw(name + ".weight", outputs, inputs)
        if bias:
            self.draw(name + ".bias", outputs)

    def conv(self, name, outputs, inputs, kernel=3):
        self.draw(name + ".weight", outputs, inputs, kernel, kernel)
        self.draw(name + ".bias", outputs)

    def norm(self, name, channels):
        self.tensors[name + ".weight"] = ((channels,), [1.0] * channels)
        self.tensors[name + ".bias"] = ((channels,), [0.0] * channels)

    def resnet(self, name, inputs, outputs):
        self.norm(name + ".norm1", inputs)
        self.conv(name + ".conv1", outputs, inputs)
        self.linear(name + ".time_emb_proj", outputs, 4 * CHANNELS[0])
        self.norm(name + ".norm2", outputs)
        self.conv(name + ".conv2", outputs, outputs)
        if inputs != outputs:
            self.conv(name + ".conv_shortcut", outputs, inputs, kernel=1)

    def attention(self, name, channels):
        self.norm(name + ".norm", channels)
        self.conv(name + ".proj_in", channels, channels, kernel=1)
        self.conv(name + ".proj_out", channels, channels, kernel=1)
        block = name + ".transformer_blocks.0"
        for attention, context in (("attn1", channels), ("attn2", CONTEXT)):
            self.linear(f"{block}.{attention}.to_q", channels, channels, bias=False)
            self.linear(f"{block}.{attention}.to_k", channels, context, bias=False)
            self.linear(f"{block}.{attention}.to_v", channels, context, bias=False)
            self.linear(f"{block}.{attention}.to_out.0", channels, channels)
        for i in (1, 2, 3):
            self.norm(f"{block}.norm{i}", channels)
        self.linear(block + ".ff.net.0.proj", 8 * channels, channels)
        self.linear(block + ".ff.net.2", channels, 4 * channels)

    def zero(self, name, rows):
        """Zeroes whole output channels of a convolution."""
        shape, values = self.tensors[name + ".weight"]
        each = len(values) // shape[0]
        for row in rows:
            values[row * each:(row + 1) * each] = [0.0] * each
            self.tensors[name + ".bias"][1][row] = 0.0

    def set(self, name, value, *index):
        shape, values = self.tensors[name]
        at = 0
        for size, i in zip(shape, index):
            at = at * size + i
        values[at] = value


def unet_weights(seed):
    low, high = CHANNELS
    w = Weights(seed)
    w.conv("conv_in", low, 1)
    w.linear("time_embedding.linear_1", 4 * low, low)
    w.linear("time_embedding.linear_2", 4 * low, 4 * low)
    w.resnet("down_blocks.0.resnets.0", low, low)
    w.conv("down_blocks.0.downsamplers.0.conv", low, low)
    w.resnet("down_blocks.1.resnets.0", low, high)
    w.attention("down_blocks.1.attentions.0", high)
    w.resnet("mid_block.resnets.0", high, high)
    w.attention("mid_block.attentions.0", high)
    w.resnet("mid_block.resnets.1", high, high)
    w.resnet("up_blocks.0.resnets.0", high + high, high)
    w.resnet("up_blocks.0.resnets.1", high + low, high)
    w.attention("up_blocks.0.attentions.0", high)
    w.attention("up_blocks.0.attentions.1", high)
    w.conv("up_blocks.0.upsamplers.0.conv", high, high)
    w.resnet("up_blocks.1.resnets.0", high + low, low)
    w.resnet("up_blocks.1.resnets.1", low + low, low)
    w.norm("conv_norm_out", low)
    w.conv("conv_out", 1, low)

    last = "up_blocks.1.resnets.1"
    for name in ("conv_in", last + ".conv_shortcut", last + ".conv2"):
        w.zero(name, (0, 1))
    for channel, sign in ((0, 1.0), (1, -1.0)):
        w.set("conv_in.weight", sign, channel, 0, 1, 1)
        w.set(last + ".conv_shortcut.weight", 1.0, channel, low + channel, 0, 0)
        w.set("conv_out.weight", sign, 0, channel, 1, 1)
    return w.tensors


def text_weights(seed, vocabulary):
    w = Weights(seed)
    w.linear("text_model.embeddings.token_embedding", vocabulary, CONTEXT, bias=False)
    w.linear("text_model.embeddings.position_embedding", TOKENS, CONTEXT, bias=False)
    layer = "text_model.encoder.layers.0"
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        w.linear(f"{layer}.self_attn.{part}", CONTEXT, CONTEXT)
    for part in ("layer_norm1", "layer_norm2"):
        w.norm(f"{layer}.{part}", CONTEXT)
    w.linear(layer + ".mlp.fc1", 2 * CONTEXT, CONTEXT)
    w.linear(layer + ".mlp.fc2", CONTEXT, 2 * CONTEXT)
    w.norm("text_model.final_layer_norm", CONTEXT)
    return w.tensors


def byte_characters():
    """The printable stand-in that CLIP's vocabulary has for every byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(len(others))]


def write_json(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def write_tokenizer(folder):
    merges = [("c", "i"), ("ci", "r"), ("o", "f</w>"), ("p", "h")]
    tokens = byte_characters()
    tokens += [t + "</w>" for t in tokens] + [a + b for a, b in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder + "/vocab.json", {token: i for i, token in enumerate(tokens)})
    with open(folder + "/merges.txt", "w") as file:
        file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    write_json(folder + "/tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "add_prefix_space": False,
        "do_lower_case": True, "errors": "replace", "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
    return len(tokens)


def make(folder, seed=1, size=8):
    """Writes the model to `folder`, which must not exist."""
    os.makedirs(folder)
    vocabulary = write_tokenizer(folder + "/tokenizer")
    write_json(folder + "/model_index.json", {
        "_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"]})
    write_json(folder + "/scheduler/scheduler_config.json", {
        "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
        "timestep_spacing": "leading"})
    write_json(folder + "/text_encoder/config.json", {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
        "hidden_size": CONTEXT, "intermediate_size": 2 * CONTEXT, "num_attention_heads": 2,
        "num_hidden_layers": 1, "max_position_embeddings": TOKENS, "vocab_size": vocabulary,
        "layer_norm_eps": 1e-5, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1, "projection_dim": CONTEXT})
    write_safetensors(folder + "/text_encoder/model.safetensors", text_weights(seed, vocabulary))
    write_json(folder + "/unet/config.json", {
        "_class_name": "UNet2DConditionModel", "in_channels": 1, "out_channels": 1, "sample_size": size,
        "block_out_channels": list(CHANNELS), "layers_per_block": 1, "norm_num_groups": CHANNELS[0] // 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 2, "cross_attention_dim": CONTEXT})
    write_safetensors(folder + "/unet/diffusion_pytorch_model.safetensors", unet_weights(seed))


def make_latent(folder, negative):
    """Writes the goldens' pipeline of Stable Diffusion's structure, with the VAE that belongs to it (16x16
    latents of 64x64 images), and one with another network."""
    golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden")
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(f"{golden}/sd15-tiny/{part}", f"{folder}/{part}")
    shutil.copy(golden + "/sd15-tiny/model_index.json", folder)
    shutil.copytree(golden + "/vae-tiny/vae", folder + "/vae")
    shutil.copytree(folder, negative)
    shutil.copy(golden + "/sd15-tiny/negative-unet.safetensors",
                negative + "/unet/diffusion_pytorch_model.safetensors")


def make_data(folder, count=48, seed=2, size=8, labels=3):
    """Images of circles, crosses and bars in IDX files, labelled in turn."""
    os.makedirs(folder)
    draw = random.Random(seed)
    images = bytearray()
    for i in range(count):
        row, column = (draw.randrange(size // 4, size - size // 4) for _ in range(2))
        for y in range(size):
            for x in range(size):
                inside = (abs((y - row) ** 2 + (x - column) ** 2 - 4) < 2, y == row or x == column,
                          y == row)[i % labels % 3]
                images.append(220 if inside else draw.randrange(30))
    for split in ("train", "t10k"):
        with open(f"{folder}/{split}-images-idx3-ubyte", "wb") as file:
            file.write(struct.pack(">IIII", 0x803, count, size, size) + images)
        with open(f"{folder}/{split}-labels-idx1-ubyte", "wb") as file:
            file.write(struct.pack(">II", 0x801, count) + bytes(i % labels for i in range(count)))


if __name__ == "__main__":
    import sys
    make(sys.argv[1])
