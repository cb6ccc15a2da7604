import json, sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
metadata = session.get_modelmeta().custom_metadata_map
prepare, window, decode = (json.loads(metadata[key]) for key in ("preprocess", "window", "postprocess"))
length, stride, heatmap_of = window["length"], window["stride"], window["heatmap_of"]


def load(path):
    """A picture, normalized, [3, height, width], and its own size."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    small = picture.resize(prepare["resize"], Image.Resampling.BILINEAR)
    pixels = (np.asarray(small, np.float32) / 255 - np.float32(prepare["mean"])) / np.float32(prepare["std"])
    return pixels.transpose(2, 0, 1), picture.size


def windows(count):
    """Windows as frame numbers, each with the frames that have their heatmaps from it: (frame, heatmap)."""
    if len(heatmap_of) == 1:
        blocks = [(last, last) for last in range(count)]
    else:
        block = length * stride
        blocks = [(first, min(first + block, count) - 1) for first in range(0, count, block)]
    for first, last in blocks:
        for end in range(max(first, last - stride + 1), last + 1):
            frames = [max(0, end - stride * back) for back in reversed(range(length))]
            found = [(end - stride * (length - 1 - of), i) for i, of in enumerate(heatmap_of)]
            yield frames, [(frame, i) for frame, i in found if frame >= first]


def find(heatmap, size):
    """The ball in pixels of the picture, and its score; a score below the threshold is no ball."""
    peak = heatmap.max()
    open_cells = heatmap >= max(decode["lowest"], decode["relative_support"] * peak)
    stack, cells = [np.unravel_index(heatmap.argmax(), heatmap.shape)], []
    while stack:  # the connected component of the highest peak, diagonals included
        y, x = stack.pop()
        if 0 <= y < heatmap.shape[0] and 0 <= x < heatmap.shape[1] and open_cells[y, x]:
            open_cells[y, x] = False
            cells.append((x, y, heatmap[y, x]))
            stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    if peak < decode["threshold"] or not cells:
        return 0.0, 0.0, float(peak)
    x, y, weight = np.array(cells, np.float64).T
    scale = np.array(size) / heatmap.shape[::-1]
    return *(scale * [np.average(x, weights=weight), np.average(y, weights=weight)]), float(peak)


paths = sorted(path for path in Path(sys.argv[1]).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
pictures = [load(path) for path in paths]
balls = {}
for frames, found in windows(len(paths)):
    batch = np.concatenate([pictures[frame][0] for frame in frames])[None]
    (heatmaps,) = session.run(None, {"frames": batch})
    balls |= {frame: find(heatmaps[0, i], pictures[frame][1]) for frame, i in found}
for frame, (x, y, score) in sorted(balls.items()):
    print(f"{paths[frame].name},{x:.2f},{y:.2f},{score:.4f}")
