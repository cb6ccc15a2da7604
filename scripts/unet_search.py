#!/usr/bin/env python3
"""What matters for a small detector over windows of frames: PyTorch trainings side by side on one GPU (docs/accuracy.md).

  unet_search.py prepare ROOT OUT.pt [W H]
  unet_search.py train DIR OUT.jsonl SECONDS [views | recipes | VARIANT=JSON ...]

`prepare` decodes a folder in the tennis layout to frames of W x H (512 x 288) and labels. `train` takes DIR/train.pt,
DIR/val.pt and DIR/real.pt and trains every variant (default: those of VARIANTS; `views`: those of VIEWS, `recipes`: those of
RECIPES), each in a process of its own, for so many seconds; learning rates follow the time, so that each ends its schedule.
Seed 0. A line of JSON for each says what it found on real.pt and val.pt, frame by frame and with the frame repeated in place
of its window. Needs torch with CUDA and torchvision.
"""
import csv
import glob
import json
import math
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn as nn
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BASE = dict(
    channels=[32, 64, 96, 128], stride=2, heatmap_stride=2, convolutions=2, norm="bn", pool="average", window=3, all_frames=True,
    vit=None, prior=0.02, loss="wbce", target="disk", radius=2.5, sigma=3.0, still=0.1, still_teaches_all=True,
    zoom=0.5, zoom_max=1.5, zoom_keeps_ball=False, jitter=1.0, noise=1.0, size=[512, 288],
    steps=4000, batch=16, lr=1e-3, weight_decay=0.01, clip=1.0, data="train", seed=0,
)
VARIANTS = dict(
    base={}, last=dict(all_frames=False), vit=dict(vit="assets/vit-tiny-tennis"), gauss_focal=dict(target="gauss", loss="focal"),
    gauss_wbce=dict(target="gauss", sigma=2.0), max=dict(pool="max"), gn=dict(norm="gn"), wide=dict(channels=[48, 96, 128, 192]),
    s4=dict(channels=[64, 96, 128], stride=4), slim=dict(channels=[16, 32, 64, 96]), w5=dict(window=5),
    s1=dict(channels=[16, 32, 64, 96, 128], stride=1),
)
# How the detector that ships is shown its frames, at the size that it has.
SHIPPED = dict(channels=[16, 32, 56, 80, 80], stride=1, target="gauss", loss="focal", steps=10**6)
VIEWS = dict(
    base={}, weak=dict(jitter=0.6, noise=0.3), keep=dict(zoom_keeps_ball=True), last=dict(still=0.3, still_teaches_all=False),
    still=dict(still=0.3), strong=dict(jitter=1.6, still=0.3),
)
# Losses and context, from the best of those.
RECIPES = dict(
    keep={}, soft=dict(loss="soft_focal"), soft_free=dict(loss="soft_focal", clip=1e9), vit=dict(vit="assets/vit-tiny-tennis"),
)


def natural(text):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def prepare(root, out, width=512, height=288):
    from torchvision.io import decode_jpeg, read_file

    def read(folder):
        torch.set_num_threads(1)
        frames, labels = [], []
        for row in csv.DictReader(open(f"{folder}/Label.csv")):
            frame = decode_jpeg(read_file(f"{folder}/{row['file name']}"))
            h, w = frame.shape[1:]
            if (w, h) != (width, height):
                frame = F.interpolate(frame[None].float(), size=(height, width), mode="bilinear", antialias=True)[0]
                frame = frame.round().clamp(0, 255).byte()
            x, y = float(row["x-coordinate"] or 0), float(row["y-coordinate"] or 0)
            frames.append(frame)
            labels.append((float(row["visibility"]), x * width / w, y * height / h))
        return torch.stack(frames), labels

    folders = sorted({os.path.dirname(f) for f in glob.glob(f"{root}/**/Label.csv", recursive=True)}, key=natural)
    with ThreadPoolExecutor(16) as pool:
        clips = list(pool.map(read, folders))
    first, firsts = 0, []
    for frames, _ in clips:
        firsts += [first] * len(frames)
        first += len(frames)
    labels = torch.tensor([label for _, labels in clips for label in labels])
    torch.save(dict(x=torch.cat([f for f, _ in clips]), labels=labels, first=torch.tensor(firsts)), out)


class Net(nn.Module):
    """The `unet` decoder of tracknet, with the features of a frozen DINOv3 added at the bottom where `vit` names one."""

    def __init__(self, c):
        super().__init__()
        self.c, channels = c, c["channels"]
        norm = lambda n: nn.BatchNorm2d(n) if c["norm"] == "bn" else nn.GroupNorm(8, n)
        layer = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), norm(o), nn.ReLU())
        chain = lambda i, o: nn.Sequential(*[layer(o if k else i, o) for k in range(c["convolutions"])])
        first = 3 * c["window"] * c["stride"] ** 2
        self.down = nn.ModuleList(chain(i, o) for i, o in zip([first] + channels, channels))
        self.bottom = chain(channels[-1], channels[-1])
        self.lateral = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(channels, channels[1:]))
        self.up = nn.ModuleList(chain(a, a) for a in channels[:-1])
        if c["vit"]:
            from transformers import AutoModel

            self.context = nn.Conv2d(256, channels[-1], 1)
            self.vit = AutoModel.from_pretrained(c["vit"], dtype=torch.float32).requires_grad_(False)
        self.head = nn.Conv2d(channels[0], c["window"] if c["all_frames"] else 1, 1)
        nn.init.constant_(self.head.bias, math.log(c["prior"] / (1 - c["prior"])))

    def forward(self, x):
        batch, channels, height, width = x.shape
        mean, std = (torch.tensor(v, device=x.device).repeat(channels // 3)[:, None, None] for v in MEAN_STD)
        x = (x - mean) / std
        resize = lambda t, size: F.interpolate(t, size=size, mode="bilinear", align_corners=False)
        y = F.pixel_unshuffle(x, self.c["stride"]).contiguous(memory_format=torch.channels_last)
        seen = []
        for i, down in enumerate(self.down):
            if i:
                half = [-(-side // 2) for side in y.shape[2:]]
                y = F.max_pool2d(y, 2, ceil_mode=True) if self.c["pool"] == "max" else resize(y, half)
            y = down(y)
            seen.append(y)
        if self.c["vit"]:
            grid = (height // 16, width // 16)
            tokens = self.vit(pixel_values=x[:, -3:]).last_hidden_state[:, -grid[0] * grid[1]:]
            y = y + resize(self.context(tokens.transpose(1, 2).reshape(batch, -1, *grid)), y.shape[2:])
        y = self.bottom(y)
        for i in reversed(range(len(self.up))):
            y = self.up[i](seen[i] + resize(self.lateral[i](y), seen[i].shape[2:]))
        stride = self.c["heatmap_stride"]
        return self.head(y if stride == self.c["stride"] else resize(y, (height // stride, width // stride)))


MEAN_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def windows(c, x, labels, first, random):
    """A batch of augmented windows [batch, 3 * window, H, W] and their labels [batch, frames, (visible, x, y, counts)]."""
    batch, n, (width, height) = c["batch"], c["window"], c["size"]
    uniform = lambda *shape: torch.rand(*shape, generator=random)
    signed = lambda *shape: (uniform(*shape) * 2 - 1).to(DEVICE)
    last = torch.randint(0, len(x), (batch,), generator=random)
    index = torch.stack([torch.maximum(last - k, first[last]) for k in reversed(range(n))], 1)
    still = uniform(batch) < c["still"]
    index[still] = last[still][:, None]
    images = x[index.to(DEVICE).flatten()].view(batch, n * 3, height, width).float() / 255
    j = c["jitter"]
    images = (images - 0.5) * (1 + 0.4 * j * signed(batch, 1, 1, 1)) + 0.5 + 0.2 * j * signed(batch, 1, 1, 1)
    images = images * (1 + 0.3 * j * signed(batch, 3, 1, 1)).repeat(1, n, 1, 1)
    mirrored = uniform(batch) < 0.5
    zoom = torch.where(uniform(batch) < c["zoom"], 1 + (c["zoom_max"] - 1) * uniform(batch), torch.ones(batch))
    w, h = width / zoom, height / zoom
    left, top = uniform(batch) * (width - w), uniform(batch) * (height - h)
    if c["zoom_keeps_ball"]:
        ball, has = labels[last][:, 1:], labels[last][:, 0] > 0

        def place(ball, cut, side):
            low, high = (ball - cut).clamp(min=0), torch.minimum(ball, side - cut)
            return low + uniform(batch) * (high - low)

        left, top = torch.where(has, place(ball[:, 0], w, width), left), torch.where(has, place(ball[:, 1], h, height), top)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = torch.where(mirrored, -1.0, 1.0) * w / width
    theta[:, 0, 2] = 2 * (left + w / 2) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = h / height, 2 * (top + h / 2) / height - 1
    grid = F.affine_grid(theta.to(DEVICE), images.shape, align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False)
    noise = uniform(batch, 1, 1, 1) * (uniform(batch, 1, 1, 1) < c["noise"])
    images = images + 0.02 * torch.randn(images.shape, device=DEVICE) * noise.to(DEVICE)
    of = labels[index]
    lx = (of[..., 1] - left[:, None]) * (width / w)[:, None]
    lx = torch.where(mirrored[:, None], width - lx, lx)
    ly = (of[..., 2] - top[:, None]) * (height / h)[:, None]
    visible = (of[..., 0] > 0) & (lx >= 0) & (lx < width) & (ly >= 0) & (ly < height)
    counts = torch.ones(batch, n)
    if not c["still_teaches_all"]:
        counts[still, :-1] = 0
    balls = torch.stack([visible.float(), lx, ly, counts], -1).to(DEVICE)
    return images.clamp(0, 1), balls if c["all_frames"] else balls[:, -1:]


def targets(c, balls):
    stride, (width, height) = c["heatmap_stride"], c["size"]
    rows, columns = (torch.arange(side // stride, device=DEVICE) * stride + stride / 2 for side in (height, width))
    squares = (columns - balls[..., 1, None, None]) ** 2 + (rows[:, None] - balls[..., 2, None, None]) ** 2
    squares = squares * (512 / width) ** 2  # radius and sigma are pixels of a width of 512
    found = (squares <= c["radius"] ** 2).float() if c["target"] == "disk" else torch.exp(-squares / (2 * c["sigma"] ** 2))
    return found * balls[..., 0, None, None]


def loss_of(c, logits, target, counts):
    p, yes, no = torch.sigmoid(logits), F.logsigmoid(logits), F.logsigmoid(-logits)
    if c["loss"] == "wbce":
        loss = (1 - p) ** 2 * target * yes + p**2 * (1 - target) * no
    elif c["loss"] == "soft_focal":  # every cell is a positive and a negative, by its target
        loss = (1 - p) ** 2 * target * yes + p**2 * (1 - target) ** 5 * no
    else:  # the focal loss of CornerNet, whose positives are the cells at the ball
        positive = (target > 0.9).float()
        loss = positive * (1 - p) ** 2 * yes + (1 - positive) * (1 - target) ** 4 * p**2 * no
    return -(loss * counts[..., None, None]).sum() / len(target) / 20


@torch.no_grad()
def evaluate(net, c, data, still):
    net.eval()
    x, labels, first = data["x"], data["labels"], data["first"]
    count, n, (width, height), stride = len(x), c["window"], c["size"], c["heatmap_stride"]
    jobs = []  # frames of a window, and (place of a heatmap, its frame)
    if still or not c["all_frames"]:
        for i in range(count):
            frames = [i if still else max(i - k, int(first[i])) for k in reversed(range(n))]
            jobs.append((frames, [(n - 1 if c["all_frames"] else 0, i)]))
    else:
        for start in sorted(set(first.tolist())):
            length = int((first == start).sum())
            for begin in range(0, length, n):
                end = min(begin + n, length)
                frames = [start + max(j, 0) for j in range(end - n, end)]
                jobs.append((frames, [(j - (end - n), start + j) for j in range(begin, end)]))
    score, error, visible = torch.zeros(count), torch.full((count,), 1e9), labels[:, 0] > 0
    radius = max(1, round(4 / stride * width / 512))
    offsets = torch.arange(-radius, radius + 1, device=DEVICE)
    for at in range(0, len(jobs), 16):
        part = jobs[at:at + 16]
        index = torch.tensor([i for frames, _ in part for i in frames])
        images = x[index].to(DEVICE).view(len(part), n * 3, height, width).float() / 255
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            maps = torch.sigmoid(net(images).float())
        for k, (_, outputs) in enumerate(part):
            for place, frame in outputs:
                m = maps[k, place]
                best, cell = m.max(), int(m.argmax())
                cy, cx = divmod(cell, m.shape[1])
                near = F.pad(m, [radius] * 4)[cy:cy + 2 * radius + 1, cx:cx + 2 * radius + 1]
                near = near * (near > 0.3 * best)
                fx = (cx + (near.sum(0) * offsets).sum() / near.sum() + 0.5) * stride
                fy = (cy + (near.sum(1) * offsets).sum() / near.sum() + 0.5) * stride
                score[frame] = best.cpu()
                if visible[frame]:
                    error[frame] = float(((fx - labels[frame, 1]) ** 2 + (fy - labels[frame, 2]) ** 2) ** 0.5) * 512 / width
    hit = visible & (error <= 4)

    def f1(threshold):
        found = score >= threshold
        tp = float((found & hit).sum())
        return 2 * tp / max(2 * tp + float((found & ~hit).sum()) + float((visible & ~found).sum()), 1)

    best, at = max((f1(t / 20), t / 20) for t in range(1, 20))
    absent = float(((score >= 0.5) & ~visible).sum() / max((~visible).sum(), 1))
    return dict(f1=round(f1(0.5), 3), best_f1=round(best, 3), at=at, found_without_ball=round(absent, 3))


def train(name, c, folder, out, deadline):
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(1)
    torch.manual_seed(c["seed"])
    random = torch.Generator().manual_seed(c["seed"])
    data = torch.load(f"{folder}/{c['data']}.pt", mmap=True)
    x, labels, first = data["x"].to(DEVICE), data["labels"], data["first"]
    net = Net(c).to(DEVICE).to(memory_format=torch.channels_last)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=c["lr"], weight_decay=c["weight_decay"])
    begin, step = time.time(), 0
    while (done := max(step / c["steps"], (time.time() - begin) / (deadline - begin))) < 1:
        cosine = (1 + math.cos(math.pi * max(0, (done - 0.05) / 0.95))) / 2
        for group in optimizer.param_groups:
            group["lr"] = c["lr"] * min(done / 0.05, cosine + 1e-3)
        net.train()
        images, balls = windows(c, x, labels, first, random)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            logits = net(images)
        loss = loss_of(c, logits.float(), targets(c, balls), balls[..., 3])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, c["clip"])
        optimizer.step()
        step += 1
    found = {}
    for which in ("real", "val"):
        data = torch.load(f"{folder}/{which}.pt")
        found[which], found[f"{which}_still"] = (evaluate(net, c, data, still) for still in (False, True))
    count = sum(p.numel() for n, p in net.named_parameters() if not n.startswith("vit"))
    with open(out, "a") as file:
        file.write(json.dumps(dict(variant=name, parameters=count, steps=step, settings=c, **found)) + "\n")


if __name__ == "__main__":
    verb, *args = sys.argv[1:] or ["help"]
    if verb == "prepare":
        prepare(args[0], args[1], *map(int, args[2:4]))
    elif verb == "one":
        train(args[0], json.loads(args[1]), args[2], args[3], float(args[4]))
    elif verb == "train":
        folder, out, deadline = args[0], args[1], time.time() + float(args[2])
        if args[3:] == ["views"]:
            chosen = {name: {**SHIPPED, **view} for name, view in VIEWS.items()}
        elif args[3:] == ["recipes"]:
            chosen = {name: {**SHIPPED, **VIEWS["keep"], **recipe} for name, recipe in RECIPES.items()}
        else:
            chosen = dict((name, json.loads(value)) for name, _, value in (a.partition("=") for a in args[3:])) or VARIANTS
        unknown = [key for variant in chosen.values() for key in variant if key not in BASE]
        sys.exit(f"unknown settings: {unknown}") if unknown else None
        command = [sys.executable, __file__, "one"]
        running = {
            name: subprocess.Popen(command + [name, json.dumps({**BASE, **variant}), folder, out, str(deadline)])
            for name, variant in chosen.items()
        }
        failed = [name for name, process in running.items() if process.wait()]
        sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
    else:
        print(__doc__)
