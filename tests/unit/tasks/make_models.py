"""Models and data for the tests of tasks: the tiny pipeline of tests/e2e as it is (8x8), another whose
samples have the classifier's size (28x28), each with images to train on, one with a VAE (16x16 latents
of 64x64 images), and a Stable Diffusion XL (8x8 latents of 32x32 images)."""
import json
import os
import shutil
import struct
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../e2e"))
import tiny_model


def write_images(folder, split, count, side):
    """Bars of three widths; brightness grows with the number, so that no two images are alike."""
    images = bytearray()
    for i in range(count):
        for y in range(side):
            for x in range(side):
                inside = side // 2 <= x <= side // 2 + i % 3
                images.append(255 - i if inside else (x * y + i) % 20)
    with open(f"{folder}/{split}-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">IIII", 0x803, count, side, side) + images)
    with open(f"{folder}/{split}-labels-idx1-ubyte", "wb") as file:
        file.write(struct.pack(">II", 0x801, count) + bytes(i % 3 for i in range(count)))


def write_captions(folder, count, size=(8, 8), colour=False):
    """PNG images of (height, width), grey or RGB, two captions."""
    os.makedirs(folder)
    height, width = size
    channels = 3 if colour else 1

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    with open(folder + "/captions.jsonl", "w") as lines:
        for i in range(count):
            rows = b"".join(bytes([0] + [(x // channels * y * 4 + x % channels * 40 + 9 * i) % 256
                                         for x in range(width * channels)]) for y in range(height))
            with open(f"{folder}/{i}.png", "wb") as file:
                file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2 if colour else 0, 0, 0, 0))
                           + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
            lines.write(json.dumps({"file": f"{i}.png", "caption": ["a photo of a bar", "noise"][i % 2]}) + "\n")


def set_part(part, **changes):
    path = part + "/config.json"
    with open(path) as file:
        config = json.load(file)
    config.update(changes)
    with open(path, "w") as file:
        json.dump(config, file)


def set_unet(model, **changes):
    set_part(model + "/unet", **changes)


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tiny_model.make(folder + "/tiny")
    tiny_model.make_data(folder + "/data")
    tiny_model.make(folder + "/other", seed=9)
    tiny_model.make(folder + "/large")
    set_unet(folder + "/large", sample_size=28)
    tiny_model.make(folder + "/large-other", seed=9)
    set_unet(folder + "/large-other", sample_size=28)
    tiny_model.make(folder + "/no-weights")
    os.remove(folder + "/no-weights/unet/diffusion_pytorch_model.safetensors")
    tiny_model.make(folder + "/no-size")
    set_unet(folder + "/no-size", sample_size=None)
    tiny_model.make_latent(folder + "/vae", folder + "/vae-negative")
    golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../golden")
    shutil.copytree(golden + "/sdxl-small", folder + "/xl")
    shutil.copytree(golden + "/sdxl-small", folder + "/latents-only")
    shutil.copytree(golden + "/vae-tiny/vae", folder + "/xl/vae")
    shutil.copytree(folder + "/vae", folder + "/vae-other")
    set_part(folder + "/vae-other/vae", latent_channels=8)
    write_captions(folder + "/captions", 6)
    write_captions(folder + "/colours", 5, size=(32, 48), colour=True)
    os.makedirs(folder + "/large-data")
    write_images(folder + "/large-data", "train", 60, 28)
    write_images(folder + "/large-data", "t10k", 30, 28)


main(sys.argv[1])
