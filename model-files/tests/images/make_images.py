"""Makes the images of this folder, and what Pillow reads from them (expected.npz).

Needs numpy and Pillow; the files were made with Pillow 13.0:

    python make_images.py
"""

import os

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 17, 23
SIZES = [(7, 11), (40, 31), (17, 40), (5, 23), (1, 1)]
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def picture():
    """A gradient with hard edges and noise, so that filters overshoot."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(7).integers(0, 40, (HEIGHT, WIDTH, 3))
    rgb = np.stack([x * 9, y * 12, (x // 6 + y // 5) % 2 * 215], axis=-1) + noise
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8), "RGB")


def main():
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    rgb = picture()
    alpha = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH), "L")
    gray = rgb.convert("L")
    images = {
        "rgb.png": rgb,
        "gray.png": gray,
        "palette.png": rgb.quantize(17),
        "one_bit.png": gray.point(lambda v: 255 * (v > 99)).convert("1"),
        "rgba.png": Image.merge("RGBA", (*rgb.split(), alpha)),
        "gray_alpha.png": Image.merge("LA", (gray, alpha)),
        "deep.png": Image.fromarray(np.array(gray, dtype=np.uint16) * 257),
    }
    for name, image in images.items():
        image.save(name)
    rgb.save("rgb.jpg", quality=90)
    rgb.save("progressive.jpg", quality=90, progressive=True)
    gray.save("gray.jpg", quality=90)

    expected = {}
    names = [name for name in images if name != "deep.png"]
    for name in names + ["rgb.jpg", "progressive.jpg", "gray.jpg"]:
        image = Image.open(name)
        expected[f"{name}/rgb"] = np.array(image.convert("RGB"))[None]
    expected["rgb.png/gray"] = np.array(rgb.convert("L"))[None, :, :, None]
    expected["gray.png/gray"] = np.array(gray)[None, :, :, None]
    for size in SIZES:
        for name, resampling in FILTERS.items():
            height, width = size
            resized = rgb.resize((width, height), resampling)
            expected[f"rgb.png/{name}/{height}x{width}"] = np.array(resized)[None]
    np.savez_compressed("expected.npz", **expected)


main()
