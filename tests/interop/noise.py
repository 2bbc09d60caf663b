"""The Gaussians of common/rng.h, written from its description: Philox4x32-10 and Box-Muller, in f64."""
import numpy as np

SAMPLE_NOISE, SAMPLE_STEP = 11, 14  # purposes
MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def philox(seed, purpose, slot, lap, blocks):
    """Four words of each block, [4, blocks]."""
    c = [np.arange(blocks, dtype=np.uint64)] + [np.full(blocks, w, np.uint64) for w in (lap, slot, purpose)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        low, high = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(high >> SHIFT) ^ c[1] ^ np.uint64(key[0]), high & MASK,
             (low >> SHIFT) ^ c[3] ^ np.uint64(key[1]), low & MASK]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def gaussians(seed, purpose, slot, lap, count):
    blocks = -(-count // 4)
    words, values = philox(seed, purpose, slot, lap, blocks), np.zeros((blocks, 4))
    for pair in range(2):
        radius = np.sqrt(-2 * np.log((words[2 * pair].astype(np.float64) + 0.5) / 2.0 ** 32))
        turn = words[2 * pair + 1].astype(np.int64)
        part = turn & 0x3FFFFFFF  # of a quarter around its middle
        angle = ((turn >> 30) + np.where(part >= 2 ** 29, part - 2 ** 30, part) / 2.0 ** 30) * np.pi / 2
        values[:, 2 * pair], values[:, 2 * pair + 1] = radius * np.cos(angle), radius * np.sin(angle)
    return values.reshape(-1)[:count]


def latents(seed, purpose, image, lap, shape):
    """Of one image: npo draws [height, width, channels], this gives [channels, height, width]."""
    channels, height, width = shape
    drawn = gaussians(seed, purpose, image, lap, height * width * channels)
    return drawn.reshape(height, width, channels).transpose(2, 0, 1).astype(np.float32)
