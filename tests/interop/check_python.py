#!/usr/bin/env python3
"""Adapters and 4-bit checkpoints, both ways between tracknet and Python, with the largest deviation of each case.

    python3 -m venv /path/to/venv && /path/to/venv/bin/pip install -r tests/interop/requirements.txt
    cargo build --release
    /path/to/venv/bin/python tests/interop/check_python.py --tracknet target/release/tracknet WORK_FOLDER

Not part of CI. Nothing is downloaded: the models are small, random and made here. Takes minutes on two cores, most of it
the import of torch. Exit code 1 when a deviation exceeds the tolerance of its kind, or a step fails. Written with Python
3.11, torch 2.15.0 (on the CPU), transformers 5.24.0, peft 0.21.2, bitsandbytes 0.50.2, safetensors 0.8.0, numpy 2.4.6.

How tracknet's own outputs are seen from outside: a run whose decoder is empty and whose head is one 1x1 convolution on the
patch features, or on those of the last stage of a ConvNeXt (without the norm that its tokens have). The score that `tracknet predict` writes for a frame is then the peak of sigmoid(head(features)) in the patch
of the heatmap that it takes for the ball.
To compute with an adapter as it is, the run that loads it never lets it train (`backbone_freeze_epochs`).
"""
import argparse
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import traceback
import warnings
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
import bitsandbytes as bnb
import peft
import torch
import transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import load_file, save_file
from transformers import (AutoModel, BitsAndBytesConfig, DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTConfig,
                          DINOv3ViTModel, Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel,
                          ViTConfig, ViTModel)

torch.set_num_threads(1)  # the sums of double quantization depend on the number of threads
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Largest deviation allowed, by what is compared. Features have magnitude 4 and pass two layers: float32 sums in another
# order differ by some 1e-6, and a wrong scale, bias or nibble by 1e-2 and more. Sums of 4 to 8 products differ in the
# last bits of weights of magnitude 1; by 2e-5 where PEFT computes singular vectors in float32, and two singular values are
# near to each other.
# What the format fixes is compared exactly.
TOLERANCE = {"output": 1e-4, "score": 2e-5, "merged weights": 5e-5, "dequantized weights": 0.0, "bytes": 0.0}
SIDE, PATCH = 64, 16


# ---------------------------------------------------------------- the table

class Table:
    """One row for each direction, case and kind of comparison, over all models it was made with."""

    def __init__(self):
        self.rows, self.errors = {}, []

    def add(self, way, case, what, deviation):
        row = self.rows.setdefault((way, case, what), [0, 0.0])
        row[0] += 1
        row[1] = deviation if math.isnan(deviation) else max(row[1], deviation)

    def attempt(self, label, function, *args):
        """Runs one case; a step that fails is a failed row, and the other cases go on."""
        try:
            function(*args)
        except Exception as error:  # noqa: BLE001: everything is reported
            self.errors.append(f"{label}: {type(error).__name__} {str(error)[:400]}")
            traceback.print_exc()
            print(f"FAILED {label}", flush=True)

    def failed(self):
        return bool(self.errors) or any(not d <= TOLERANCE[w] for (_, _, w), (_, d) in self.rows.items())

    def print(self):
        """A line for each direction and case; "models" counts what the largest deviations were taken over."""
        print("\n| direction | case | models | " + " | ".join(TOLERANCE) + " |\n" + "|---" * (3 + len(TOLERANCE)) + "|")
        for way, case in dict.fromkeys(key[:2] for key in self.rows):
            found = {what: self.rows[way, case, what] for what in TOLERANCE if (way, case, what) in self.rows}
            cells = [self.cell(what, *found[what]) if what in found else "" for what in TOLERANCE]
            print(f"| {way} | {case} | {max(count for count, _ in found.values())} | " + " | ".join(cells) + " |")
        print("| allowed | | | " + " | ".join(f"{t:g}" for t in TOLERANCE.values()) + " |")
        for error in self.errors:
            print("error:", error)

    @staticmethod
    def cell(what, _, deviation):
        shown = f"{deviation:.0f}" if what == "bytes" or deviation == 0 else f"{deviation:.1e}"
        return shown if deviation <= TOLERANCE[what] else f"**{shown}**"


def largest(a, b):
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0


def largest_of_files(first, second):
    """Over all tensors of two model directories, which must have the same ones."""
    a, b = (load_file(Path(d) / "model.safetensors") for d in (first, second))
    if a.keys() != b.keys():
        raise ValueError(f"{first} and {second} differ in {sorted(a.keys() ^ b.keys())}")
    return max(largest(a[k], b[k]) for k in a)


def differing_bytes(first, second):
    a, b = (Path(p).read_bytes() for p in (first, second))
    return abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b))


# ---------------------------------------------------------------- models, frames and runs

def randomise(model, seed):
    """Values of every parameter that show when one is mistaken for another; outputs stay of magnitude 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_(0.1 * r if name.endswith("bias") else 1 + 0.1 * r)
            elif "token" in name or "position" in name:
                p.copy_(0.5 * r)
            else:
                p.copy_(r * 0.6 / math.sqrt(p[0].numel()))
    return model.eval()


def models():
    """Name, transformers model. Blocks of 64 fit rows of 64, cross the rows of 40 and 33, and 33 × 33 and 33 × 65 are odd.
    The SwiGLU of DINOv2 has gate and up in one tensor of its files and in two layers in memory. No width is a multiple of
    16 and not of 64: for those the kernel of bitsandbytes 0.50 for processors with AVX-512 reads wrong blocks."""
    common = dict(num_hidden_layers=2, patch_size=PATCH, image_size=SIDE)
    dinov3 = dict(num_attention_heads=2, num_register_tokens=4, pos_embed_rescale=None, **common)
    yield "dinov3-64", DINOv3ViTModel(DINOv3ViTConfig(hidden_size=64, intermediate_size=128, **dinov3))
    gated = dict(use_gated_mlp=True, hidden_act="silu")
    yield "dinov3-40", DINOv3ViTModel(DINOv3ViTConfig(hidden_size=40, intermediate_size=72, **gated, **dinov3))
    dinov2 = dict(mlp_ratio=2, num_attention_heads=2, **common)
    yield "dinov2-64", Dinov2Model(Dinov2Config(hidden_size=64, **dinov2))
    yield "dinov2-swiglu-40", Dinov2Model(Dinov2Config(hidden_size=40, use_swiglu_ffn=True, **dinov2))
    registers = Dinov2WithRegistersConfig(hidden_size=64, num_register_tokens=4, use_swiglu_ffn=True, **dinov2)
    yield "dinov2-registers-swiglu-64", Dinov2WithRegistersModel(registers)
    registers = Dinov2WithRegistersConfig(hidden_size=40, num_register_tokens=4, **{**dinov2, "mlp_ratio": 3})
    yield "dinov2-registers-40", Dinov2WithRegistersModel(registers)
    yield "vit-33", ViTModel(ViTConfig(hidden_size=33, intermediate_size=65, num_attention_heads=3, **common))
    # Three stages, whose cells are as large as the patches of the others.
    convnext = DINOv3ConvNextConfig(hidden_sizes=[64, 33, 64], depths=[1, 2, 1])
    yield "convnext-64-33", DINOv3ConvNextModel(convnext)


def write_png(path, pixels):
    """`pixels` [height, width, 3] uint8."""
    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


class Bench:
    """The work folder, and what all cases share."""

    def __init__(self, tracknet, folder):
        self.tracknet, self.folder, self.made = tracknet, folder, 0
        generator = torch.Generator().manual_seed(7)
        coarse = torch.randint(0, 256, (12, 3, 8, 8), generator=generator).float()
        frames = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear").round().to(torch.uint8)
        (folder / "frames").mkdir()
        for i, frame in enumerate(frames):
            write_png(folder / "frames" / f"{i:04}.png", frame.permute(1, 2, 0))
        self.frames = frames.float() / 255
        self.command("data", "generate", folder / "data", "--games", 2, "--clips", 1, "--frames", 4, "--size", f"{SIDE}x{SIDE}")
        data = {"root": str(folder / "data"), "split": {"train_games": ["game1"], "val_games": ["game2"]},
                "preprocess": {"resize": [SIDE, SIDE], "normalize": False}}
        (folder / "data.yaml").write_text(json.dumps(data))

    def command(self, *args):
        done = subprocess.run([self.tracknet, *map(str, args)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"tracknet {' '.join(map(str, args))}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def path(self, name):
        self.made += 1
        return self.folder / f"{self.made:03}-{name}"

    def run(self, base, hidden, lora=None, quantization=None, trains=True):
        """Trains for two epochs (of two steps) and gives the last checkpoint."""
        out = self.path("run")
        out.mkdir()
        generator = torch.Generator().manual_seed(8)
        head = {"head.conv.weight": torch.randn(1, hidden, 1, 1, generator=generator) / math.sqrt(hidden),
                "head.conv.bias": torch.tensor([-1.0])}
        save_file(head, out / "tracknet_head.safetensors")
        model = {"pretrained_model_name": str(base), "backbone": {"patch_size": PATCH, "return_stages": [3]},
                 "decoder": {"channels": [hidden, hidden], "upsample": [1], "blocks_per_stage": 0, "pretrained": str(out)},
                 "heatmap": {"size": [SIDE // PATCH] * 2, "sigma": 1.0},
                 "lora": {"enabled": True, **lora} if lora else {}, "quantization": quantization or {}}
        training = {"batch_size": 2, "epochs": 2, "precision": "fp32", "optimizer": {"lr": 0.01}, "loss": {"name": "focal"},
                    "backbone_freeze_epochs": 0 if trains else 9, "scheduler": {"name": "constant", "warmup_epochs": 0}}
        for name, value in (("model", model), ("training", training)):
            (out / f"{name}.yaml").write_text(json.dumps(value))
        self.command("train", "--data", self.folder / "data.yaml", "--model", out / "model.yaml",
                     "--training", out / "training.yaml", "--output-dir", out / "runs")
        return next((out / "runs").glob("run-*")) / "checkpoints" / "last"

    def scores(self, checkpoint):
        """What tracknet computes for the frames with a run."""
        out = self.path("predictions")
        self.command("predict", checkpoint, self.folder / "frames", "--jsonl", "--output", out, "--threshold", 0)
        lines = next(out.glob("*.jsonl")).read_text().splitlines()
        return torch.tensor([json.loads(line)["score"] for line in lines])

    def features(self, model):
        with torch.no_grad():
            return model(pixel_values=self.frames).last_hidden_state

    def python_scores(self, model, checkpoint):
        """What Python computes for the frames, with the head of a run."""
        head = load_file(checkpoint / "tracknet_head.safetensors")
        if is_convnext(model):
            with torch.no_grad():
                last = model(pixel_values=self.frames, output_hidden_states=True).hidden_states[-1]
            patches = last.flatten(2).transpose(1, 2)
        else:
            patches = self.features(model)[:, -((SIDE // PATCH) ** 2):]
        heatmaps = torch.sigmoid(patches @ head["head.conv.weight"].flatten() + head["head.conv.bias"])
        return torch.tensor([peak_of_ball(heatmap.reshape(SIDE // PATCH, -1)) for heatmap in heatmaps])


def is_convnext(model):
    return model.config.model_type == "dinov3_convnext"


def peak_of_ball(heatmap):
    """The peak of the connected component, diagonals included, with the largest sum; values from half of the highest on
    belong to one."""
    open_cells = {tuple(cell) for cell in (heatmap >= 0.5 * heatmap.max()).nonzero().tolist()}
    best = (-1.0, 0.0)
    while open_cells:
        stack, values = [open_cells.pop()], []
        while stack:
            row, column = stack.pop()
            values.append(heatmap[row, column].item())
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & open_cells
            open_cells -= near
            stack.extend(near)
        best = max(best, (sum(values), max(values)))
    return best[1]


def load(directory):
    """As a user does. `bitsandbytes` layers compute from the packed weights in the compute type; its fused bfloat16 kernel,
    which some processors get by default, rounds activations and scales, and is left out."""
    model, info = AutoModel.from_pretrained(directory, output_loading_info=True)
    wrong = {kind: sorted(names) for kind, names in info.items() if names}
    if wrong:
        raise ValueError(f"transformers finds in {directory}: {wrong}")
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


# ---------------------------------------------------------------- adapters

def variants(linears, final_norm, stem):
    """Name and the options of an adapter, in words that PEFT and tracknet share. `linears` are full paths."""
    ends = sorted({name.rsplit(".", 1)[-1] for name in linears})
    all_of = dict(r=4, lora_alpha=8, target_modules=linears)
    pattern = {"rank_pattern": {ends[0]: 8, re.escape(linears[-1]): 2}, "alpha_pattern": {ends[0]: 32, linears[1]: 5}}
    yield "LoRA", all_of
    yield "rsLoRA", {**all_of, "use_rslora": True}
    yield "DoRA", {**all_of, "use_dora": True}
    yield "DoRA, rsLoRA", {**all_of, "use_dora": True, "use_rslora": True}
    yield "rank and alpha patterns", {**all_of, **pattern}
    yield "regex targets", {**all_of, "target_modules": rf".*layers?\.\d+\..*({ends[0]}|{ends[-1]})"}
    yield "name targets", {**all_of, "target_modules": ends[:2], "exclude_modules": [linears[-1]]}
    yield "bias lora_only", {**all_of, "bias": "lora_only"}
    yield "bias all", {**all_of, "bias": "all"}
    yield "modules_to_save", {**all_of, "modules_to_save": [final_norm]}
    # The stem (the patch embedding) is no 4-bit layer, and the last linear layer of a float model is saved whole, not adapted.
    yield "bias all, modules_to_save", {**all_of, "bias": "all", "modules_to_save": [final_norm, stem]}


def differing_adapters(first, second):
    """With `bias: all` PEFT also writes the biases of what it wraps around saved modules, by names of its own."""
    files = []
    for directory in (first, second):
        file = Path(directory) / "adapter_model.safetensors"
        tensors = {k: v for k, v in load_file(file).items() if not re.search(r"\.(original_module|modules_to_save)\.", k)}
        plain = file.with_name("without_wrappers.safetensors")
        save_file(tensors, plain, {"format": "pt"})
        files.append(file if len(tensors) == len(load_file(file)) else plain)
    return differing_bytes(*files)


STARTS = ("gaussian", "orthogonal", "olora", "pissa")


def randomise_adapter(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                r = torch.randn(p.shape, generator=generator)
                if "magnitude" in name:
                    p.mul_(1 + 0.2 * r.abs())
                elif "lora_" in name:
                    p.copy_(0.1 * r)
                else:
                    p.add_(0.1 * r)


def names(base):
    """Path in memory → path in the file, of the modules with weights: transformers 5 renames some while it loads. They are
    told apart by their values."""
    tensors = {k.removesuffix(".weight"): v for k, v in load_file(base / "model.safetensors").items() if k.endswith(".weight")}
    found = {}
    for path, module in load(base).named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.LayerNorm)):
            same = (k for k, v in tensors.items() if torch.equal(v.float(), module.weight.float()))
            found[path] = next(same, path)  # gate and up have no tensor of their own
    return found


def halves(tensors):
    """Gate and up apart, as they are in memory."""
    apart = {}
    for name, tensor in tensors.items():
        parts = zip(("gate_proj", "up_proj"), tensor.chunk(2)) if ".weights_in." in name else [("weights_in", tensor)]
        apart.update({name.replace("weights_in", part): value.contiguous() for part, value in parts})
    return apart


def targets(base):
    """Linear layers of the blocks and the final norm, by their paths in memory (PEFT's) and in files (tracknet's)."""
    model, in_file = load(base), names(base)
    linears = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and re.search(r"layers?\.\d", n)]
    norm = [n for n, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)][-1]
    stem, hidden = "patch_embeddings", getattr(model.config, "hidden_size", None)
    if is_convnext(model):
        stem, hidden = "stages.0.downsample_layers.0", model.config.hidden_sizes[-1]
    return (linears, norm, stem), ([in_file[n] for n in linears], in_file[norm], stem), hidden


def peft_to_tracknet(bench, table, base, four_bit, case, options, hidden):
    """PEFT writes an adapter; tracknet computes with it, writes it again, merges and converts it."""
    way = "PEFT → tracknet" + (", 4-bit base" if four_bit else "")
    adapter = bench.path("peft")
    wrapped = peft.get_peft_model(load(base), peft.LoraConfig(**options)).eval()
    randomise_adapter(wrapped, 11)
    wrapped.save_pretrained(adapter)
    model = peft.PeftModel.from_pretrained(load(base), adapter).eval()
    outputs = bench.features(model)

    checkpoint = bench.run(base, hidden, {"adapter": str(adapter)}, trains=False)
    table.add(way, case, "score", largest(bench.scores(checkpoint), bench.python_scores(model, checkpoint)))
    table.add(way, case, "bytes", differing_adapters(adapter, checkpoint / "adapter"))

    merged = bench.path("merged")
    bench.command("adapter", "merge", adapter, merged, "--base", base)
    table.add(way, case, "output", largest(bench.features(load(merged)), outputs))
    if not four_bit:  # PEFT merges into 4 bits again, tracknet into floats
        expected = bench.path("peft-merged")
        model.merge_and_unload().save_pretrained(expected)
        table.add(way, case, "merged weights", largest_of_files(merged, expected))
    if not four_bit and not options.get("use_dora"):  # no plain adapter equals a DoRA adapter: refused
        converted = bench.path("converted")
        bench.command("adapter", "convert", adapter, converted, "--base", base)
        plain = peft.PeftModel.from_pretrained(load(base), converted).eval()
        table.add("PEFT → tracknet (convert) → PEFT", case, "output", largest(bench.features(plain), outputs))


def tracknet_to_peft(bench, table, base, four_bit, case, options, hidden):
    """tracknet trains an adapter; PEFT computes with it and merges it."""
    way = "tracknet → PEFT" + (", 4-bit base" if four_bit else "")
    checkpoint = bench.run(base, hidden, options)
    adapter = checkpoint / "adapter"
    model = peft.PeftModel.from_pretrained(load(base), adapter).eval()
    outputs = bench.features(model)
    if largest(outputs, bench.features(load(base))) < 1e-3:
        raise ValueError("the adapter changes nothing: this case shows nothing")
    table.add(way, case, "score", largest(bench.scores(checkpoint), bench.python_scores(model, checkpoint)))

    merged = bench.path("merged")
    bench.command("adapter", "merge", checkpoint, merged)
    table.add(way, case, "output", largest(bench.features(load(merged)), outputs))
    if four_bit:
        # Both read the same from what is in 4 bits again; that it is near to the adapted model tracknet says itself.
        again = bench.path("merged-4bit")
        bench.command("adapter", "merge", checkpoint, again, "--requantize")
        computed = bench.run(again, hidden)
        table.add("tracknet → transformers, merged into 4 bits", case, "score",
                  largest(bench.scores(computed), bench.python_scores(load(again), computed)))
    if not four_bit:
        saved, expected = bench.path("peft-again"), bench.path("peft-merged")
        model.save_pretrained(saved)
        if options.get("init_lora_weights") not in ("olora", "pissa"):  # PEFT rewrites those two when it saves
            table.add(way, case, "bytes", differing_adapters(adapter, saved))
        model.merge_and_unload().save_pretrained(expected)
        table.add(way, case, "merged weights", largest_of_files(merged, expected))


# ---------------------------------------------------------------- 4-bit checkpoints

def packed_weights(directory):
    """Path → (packed tensor, QuantState) of every 4-bit weight of a checkpoint, read by bitsandbytes."""
    tensors = load_file(Path(directory) / "model.safetensors")
    found = {}
    for key in tensors:
        if ".quant_state." in key:
            name = key.split(".quant_state.")[0]
            parts = {k: v for k, v in tensors.items() if k.startswith(name + ".")}
            found[name] = (tensors[name], bnb.functional.QuantState.from_dict(parts, device=torch.device("cpu")))
    return found


def dequantized(packed, state):
    """By bitsandbytes' PyTorch reference: its C++ kernel reads wrong blocks for some widths that are no multiple of the
    blocksize."""
    absmax = state.absmax
    if state.nested:
        absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
    reference = getattr(_dequantize_4bit_compute, "_torchdynamo_orig_callable", _dequantize_4bit_compute)
    flat = packed.reshape(-1).view(torch.uint8)
    return reference(flat, absmax.float(), state.code, state.blocksize, state.shape, state.dtype)


def write_by_hand(base, like, destination, kind, nested, blocksize):
    """A checkpoint as bitsandbytes.functional packs it; `like` says which weights, and has the config.json."""
    stacked = load_file(base / "model.safetensors")
    tensors = halves(stacked) if any("gate_proj" in name for name in packed_weights(like)) else stacked
    for name in packed_weights(like):
        options = dict(blocksize=blocksize, quant_type=kind, compress_statistics=nested)
        packed, state = bnb.functional.quantize_4bit(tensors[name], **options)
        tensors[name] = packed
        tensors.update({f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()})
    # Biases of two layers that files have as one stay one.
    for name in [name for name in stacked if ".weights_in.bias" in name and name not in tensors]:
        tensors[name] = stacked[name]
        for part in ("gate_proj", "up_proj"):
            del tensors[name.replace("weights_in", part)]
    destination.mkdir()
    save_file(tensors, destination / "model.safetensors", {"format": "pt"})
    shutil.copy(like / "config.json", destination)


def loaded_weights(directory, in_file):
    """Path in the file → dequantized weight, of a model that transformers loaded."""
    layers = [(in_file[n], m) for n, m in load(directory).named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    return {f"{n}.weight": dequantized(m.weight.data, m.weight.quant_state) for n, m in layers}


def both(tensors):
    """By the names of files and of memory."""
    return {**halves(tensors), **tensors}


def worst(first, second):
    """Over weights by name."""
    if not first or first.keys() != second.keys():
        raise ValueError(f"packed weights differ: {sorted(first.keys() ^ second.keys()) or 'there are none'}")
    return max(largest(first[k], second[k]) for k in first)


def four_bits(bench, table, base, kind, nested, blocksize):
    case = f"{kind}{' nested' if nested else ''}, blocks of {blocksize}"
    written, by_hand, floats = bench.path("tracknet-4bit"), bench.path("bitsandbytes-4bit"), bench.path("floats")
    bench.command("quantize", base, written, "--quant-type", kind, "--blocksize", blocksize, "--compute-dtype", "float32",
                  "--double-quant" if nested else "--no-double-quant")
    write_by_hand(base, written, by_hand, kind, nested, blocksize)
    name = "model.safetensors"
    table.add("tracknet → bitsandbytes", case, "bytes", differing_bytes(written / name, by_hand / name))
    expected = {k: dequantized(*v) for k, v in packed_weights(by_hand).items()}
    table.add("tracknet → transformers", case, "dequantized weights", worst(loaded_weights(written, names(base)), expected))

    bench.command("dequantize", by_hand, floats)
    read = {k: v for k, v in both(load_file(floats / name)).items() if k in expected}
    table.add("bitsandbytes → tracknet", case, "dequantized weights", worst(read, expected))


def differing_layers(first, second):
    """Bytes of codes and scales that differ between the 4-bit layers of two models."""
    packed = [{n: m.weight for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)} for model in (first, second)]
    if not packed[0] or packed[0].keys() != packed[1].keys():
        raise ValueError(f"4-bit layers differ: {sorted(packed[0].keys() ^ packed[1].keys()) or 'there are none'}")
    count = 0
    for a, b in ((packed[0][n], packed[1][n]) for n in packed[0]):
        states = [w.quant_state.as_dict(packed=True) for w in (a, b)]
        if states[0].keys() != states[1].keys():
            raise ValueError(f"states differ: {states[0].keys() ^ states[1].keys()}")
        pairs = [(a.data, b.data)] + [(states[0][k], states[1][k]) for k in states[0]]
        for x, y in pairs:
            x, y = (t.contiguous().flatten().view(torch.uint8) for t in (x, y))
            count += (x != y).sum().item() if len(x) == len(y) else max(len(x), len(y))
    return count


def four_bits_of_transformers(bench, table, base, hidden, kind, nested):
    """What `from_pretrained` quantizes and `save_pretrained` writes: blocks of 64."""
    case = f"{kind}{' nested' if nested else ''}"
    options = dict(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested,
                   bnb_4bit_compute_dtype=torch.float32)
    model = AutoModel.from_pretrained(base, quantization_config=BitsAndBytesConfig(**options)).eval()
    saved, written = bench.path("transformers-4bit"), bench.path("tracknet-4bit")
    bench.command("quantize", base, written, "--quant-type", kind, "--compute-dtype", "float32",
                  "--double-quant" if nested else "--no-double-quant")
    name = "model.safetensors"
    table.add("tracknet → transformers", f"{case}, as it packs itself", "bytes", differing_layers(model, load(written)))
    if model.config.to_dict().get("use_swiglu_ffn"):
        # transformers 5.23 writes one tensor for gate and up, with two states in it, and cannot load it again.
        saved = written
    else:
        model.save_pretrained(saved)
        table.add("tracknet = transformers", case, "bytes", differing_bytes(saved / name, written / name))

    # tracknet computes with the checkpoint of transformers, and with the float one that it packs itself.
    quantization = dict(enabled=True, quant_type=kind, compress_statistics=nested, compute_dtype="float32")
    for way, source in (("transformers → tracknet", saved), ("tracknet packs at load", base)):
        for mode in ("manual", "hf"):
            checkpoint = bench.run(source, hidden, None, {**quantization, "mode": mode})
            table.add(way, case, "score", largest(bench.scores(checkpoint), bench.python_scores(load(written), checkpoint)))

    if hidden % 2 or saved == written:
        return  # transformers cannot view an odd number of bytes as bfloat16
    stored = AutoModel.from_pretrained(base, quantization_config=BitsAndBytesConfig(**options, bnb_4bit_quant_storage=torch.bfloat16))
    viewed, floats = bench.path("bfloat16-storage"), bench.path("floats")
    stored.save_pretrained(viewed)
    bench.command("dequantize", viewed, floats)
    expected = {k: dequantized(*v) for k, v in packed_weights(written).items()}
    read = {k: v for k, v in both(load_file(floats / name)).items() if k in expected}
    table.add("transformers → tracknet", f"{case}, quant_storage bfloat16", "dequantized weights", worst(read, expected))


def skip_lists(bench, table):
    """Which layers stay floats, of twelve blocks: as transformers decides for the same entry, and as it reads what is
    written."""
    config = Dinov2Config(hidden_size=64, mlp_ratio=2, num_attention_heads=2, num_hidden_layers=12, patch_size=PATCH, image_size=SIDE)
    base = bench.path("dinov2-12-blocks")
    randomise(Dinov2Model(config), 12).save_pretrained(base)
    for entry in ("encoder.layer.1", "o_proj", "encoder.layer.1.attention", r"encoder\.layer\.(0|11)\.mlp"):
        options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, bnb_4bit_quant_type="nf4",
                                     bnb_4bit_use_double_quant=True, llm_int8_skip_modules=[entry])
        written = bench.path("skipped")
        bench.command("quantize", base, written, "--compute-dtype", "float32", "--skip", entry)
        theirs = AutoModel.from_pretrained(base, quantization_config=options)
        table.add("tracknet = transformers", "skip lists of 12 blocks", "bytes", differing_layers(theirs, load(written)))


# ---------------------------------------------------------------- everything

def check_model(bench, table, name, model):
    base = bench.folder / name
    model.save_pretrained(base)
    of_peft, of_tracknet, hidden = targets(base)
    four_bit = bench.path(f"{name}-4bit")
    bench.command("quantize", base, four_bit, "--compute-dtype", "float32")
    table.attempt(f"{name} itself", lambda: base_alone(bench, table, base, hidden))
    for check, paths in ((peft_to_tracknet, of_peft), (tracknet_to_peft, of_tracknet)):
        for case, options in variants(*paths):
            for packed, source in ((False, base), (True, four_bit)):
                table.attempt(f"{check.__name__} {name} {case}", check, bench, table, source, packed, case, options, hidden)
    for start in STARTS:
        options = dict(r=4, lora_alpha=8, target_modules=of_tracknet[0], init_lora_weights=start)
        args = (bench, table, base, False, f"started with {start}", options, hidden)
        table.attempt(f"tracknet_to_peft {name} {start}", tracknet_to_peft, *args)
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            table.attempt(f"{name} {kind}", four_bits_of_transformers, bench, table, base, hidden, kind, nested)
            for blocksize in (64, 128):
                for dtype in ("float32", "float16", "bfloat16"):
                    source = bench.folder / f"{name}-{dtype}"
                    if not source.exists():
                        load(base).to(getattr(torch, dtype)).save_pretrained(source)
                    table.attempt(f"{source.name} {kind} {blocksize}", four_bits, bench, table, source, kind, nested, blocksize)


def base_alone(bench, table, base, hidden):
    """The frozen float backbone without any adapter, and the directory that `export` writes of it."""
    checkpoint, exported = bench.run(base, hidden), bench.path("exported")
    table.add("transformers → tracknet", "float backbone", "score",
              largest(bench.scores(checkpoint), bench.python_scores(load(base), checkpoint)))
    bench.command("export", checkpoint, exported)
    table.add("tracknet → transformers", "float backbone (export)", "output",
              largest(bench.features(load(exported)), bench.features(load(base))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracknet", required=True, help="the tracknet program")
    parser.add_argument("--models", help="only models whose name holds this text")
    parser.add_argument("folder", type=Path, help="work folder; it must not exist, and is kept")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    bench, table = Bench(str(Path(args.tracknet).resolve()), args.folder.resolve()), Table()
    print(f"Python {sys.version.split()[0]}, " + ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, peft, bnb)))
    table.attempt("skip lists", skip_lists, bench, table)
    for seed, (name, model) in enumerate(models()):
        if not args.models or args.models in name:
            print(name, flush=True)
            check_model(bench, table, name, randomise(model, seed))
    table.print()
    return 1 if table.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
