#!/usr/bin/env python3
"""Training steps of PyTorch + transformers + peft (+ bitsandbytes) on a CUDA device, for comparison with `tracknet bench`.

  peer_gpu.py SIZE:BATCH:VARIANT ...        one JSON line for each, measured in a process of its own

SIZE is S (DINOv3 ViT-S/16) or B (ViT-B/16), with random weights, 288x512 frames, the decoder of configs/model, LoRA of
rank 16 on every linear layer with dropout 0.05, mean squared error on 144x256 heatmaps, AdamW. VARIANT is

  lora_fp32, lora_bf16 (autocast), qlora_fp32, qlora_bf16 (compute dtype), qlora_bf16_autocast (and autocast)

Needs torch with CUDA, transformers, peft, accelerate, and for qlora bitsandbytes.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HEIGHT, WIDTH = 288, 512
SIZES = {  # hidden, layers, heads, mlp
    "S": dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536),
    "B": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
}
WARM_UP, STEPS = 5, 15


def build(size, variant):
    import peft
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from transformers import BitsAndBytesConfig, DINOv3ViTConfig, DINOv3ViTModel

    shape = SIZES[size]
    hidden = shape["hidden_size"]
    config = DINOv3ViTConfig(
        **shape, patch_size=16, num_register_tokens=4, image_size=224, layerscale_value=1.0, query_bias=True,
        key_bias=False, value_bias=True, proj_bias=True, mlp_bias=True, rope_theta=100.0, layer_norm_eps=1e-5,
        hidden_act="gelu", use_gated_mlp=False, pos_embed_rescale=2.0)

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            self.norm = nn.GroupNorm(32, channels)
            self.pw = nn.Conv2d(channels, channels, 1, bias=False)

        def forward(self, x):
            return x + self.pw(F.gelu(self.norm(self.dw(x))))

    class Net(nn.Module):
        def __init__(self, backbone):
            super().__init__()
            channels = [hidden, 256, 128, 64]
            self.backbone = backbone
            self.projections = nn.ModuleList(nn.Conv2d(channels[i], channels[i + 1], 1, bias=False) for i in range(3))
            self.blocks = nn.ModuleList(Block(channels[i + 1]) for i in range(3))
            self.head = nn.Conv2d(64, 1, 1)

        def forward(self, x):
            tokens = self.backbone(pixel_values=x).last_hidden_state[:, 5:]
            y = tokens.transpose(1, 2).reshape(x.shape[0], hidden, HEIGHT // 16, WIDTH // 16)
            for projection, block in zip(self.projections, self.blocks):
                y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
                y = block(projection(y))
            y = F.interpolate(y, size=(144, 256), mode="bilinear", align_corners=False)
            return self.head(y)

    with tempfile.TemporaryDirectory() as directory:
        DINOv3ViTModel(config).save_pretrained(directory)
        if "qlora" in variant:
            dtype = torch.float32 if "fp32" in variant else torch.bfloat16
            quantization = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype)
            backbone = DINOv3ViTModel.from_pretrained(directory, quantization_config=quantization, device_map={"": 0})
            backbone = peft.prepare_model_for_kbit_training(backbone, use_gradient_checkpointing=False)
        else:
            backbone = DINOv3ViTModel.from_pretrained(directory, dtype=torch.float32).cuda()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    backbone = peft.get_peft_model(
        backbone, peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets))
    return Net(backbone).cuda().train()


def measure(size, batch, variant):
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    net = build(size, variant)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05)
    x = torch.randn(batch, 3, HEIGHT, WIDTH, device="cuda")
    target = torch.rand(batch, 1, 144, 256, device="cuda")
    autocast = variant in ("lora_bf16", "qlora_bf16_autocast")

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            y = net(x)
        loss = F.mse_loss(y.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()

    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return dict(
        side="peer", size=size, batch=batch, variant=variant, ms=statistics.median(times), min_ms=min(times),
        max_ms=max(times), allocated_mib=torch.cuda.max_memory_allocated() / 2**20,
        reserved_mib=torch.cuda.max_memory_reserved() / 2**20, loss=loss, device=torch.cuda.get_device_name(0),
        torch=torch.__version__)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print("RESULT " + json.dumps(measure(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
        sys.exit()
    for job in sys.argv[1:]:
        size, batch, variant = job.split(":")
        run = subprocess.run(
            [sys.executable, __file__, "--one", size, batch, variant], capture_output=True, text=True,
            env=dict(os.environ, TOKENIZERS_PARALLELISM="false"))
        lines = [line[7:] for line in run.stdout.splitlines() if line.startswith("RESULT ")]
        failed = dict(side="peer", size=size, batch=int(batch), variant=variant,
                      error=(run.stderr.strip().splitlines() or ["no output"])[-1][:300])
        print(lines[-1] if lines else json.dumps(failed), flush=True)
