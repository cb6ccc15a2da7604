//! The table of every key. Defaults are not here: they are those of the structs, so that they cannot disagree.

use super::schema::Kind::*;
use super::schema::{Key, Kind, Neutral, Range, Status, Word};

const MAX: u64 = u64::MAX;
/// Sizes beyond this are typing errors, not images.
const PIXELS: Kind = Whole(1, 16_384);
const POSITIVE: Kind = Whole(1, 1 << 24);
const COUNT: Kind = Whole(0, 1 << 32);
const PROBABILITY: Kind = Real(Range::Unit);
const TEXTS: Kind = List(&Text, 0);
const OFF: Status = Status::Unavailable(Neutral::Off, None);
const OFF_IN_LORA: Status = Status::Unavailable(Neutral::Off, Some("model.lora"));

const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, status: Status::Working, doc }
}

const fn with(path: &'static str, kind: Kind, status: Status) -> Key {
    Key { path, kind, status, doc: "" }
}

const fn word(name: &'static str, aliases: &'static [&'static str]) -> Word {
    Word { name, aliases, available: true }
}

const fn missing(name: &'static str) -> Word {
    Word { name, aliases: &[], available: false }
}

const MODEL_NAME: Kind = Choice(&[
    word("vit_heatmap", &[]),
    word("vit_lora_heatmap", &[]),
    word("vit_qlora_heatmap", &[]),
    missing("convnext_fpn_heatmap"),
    missing("convnext_hrnet_heatmap"),
    missing("convnext_deformable_fpn_heatmap"),
]);
const FORMAT: Kind = Choice(&[word("auto", &[]), word("tracknet", &[]), missing("badminton"), missing("frames")]);
const PRECISION: Kind = Choice(&[
    word("fp32", &["32", "float32", "32-true"]),
    word("fp16", &["16", "float16", "16-mixed"]),
    word("bf16", &["bfloat16", "bf16-mixed"]),
]);
const COMPUTE_DTYPE: Kind = Choice(&[
    word("bfloat16", &["bf16", "torch.bfloat16"]),
    word("float16", &["fp16", "torch.float16"]),
    word("float32", &["fp32", "torch.float32"]),
]);
const RANK: Kind = Whole(1, 65_536);
const INDEX: Kind = Whole(0, 65_536);
const INIT: Kind = Choice(&[
    word("true", &[]),
    word("false", &[]),
    word("gaussian", &[]),
    word("orthogonal", &[]),
    word("olora", &[]),
    word("pissa", &[]),
    word("loftq", &[]),
]);
const BLOCKSIZES: Kind = WholeOf(&[32, 64, 128, 256, 512, 1024, 2048, 4096]);

const SKIP_MODULES: &str = "What stays float: parts of module paths in mode `manual`, in mode `hf` what `transformers` \
                            matches (a pattern from the start of the path, or the end of it as text).";

pub(super) const KEYS: &[Key] = &[
    key("data.root", Text, "Dataset root: `<root>/<game>/<clip>/…`."),
    key(
        "data.format",
        FORMAT,
        "Label format: `tracknet` (tennis, `Label.csv` beside the frames), or `auto` = by looking.",
    ),
    key("data.split.train_games", TEXTS, "Games to train on, as directory names; one that is missing is an error."),
    key("data.split.val_games", NullIsDefault(&TEXTS), "Games to validate on."),
    key("data.split.test_games", NullIsDefault(&TEXTS), "Games held out for the test."),
    key(
        "data.preprocess.resize",
        Pair(&PIXELS),
        "Input size `[W, H]` in pixels; multiples of the backbone's patch size.",
    ),
    key(
        "data.preprocess.normalize",
        Flag,
        "Subtract the mean, divide by the deviation (ImageNet's or the checkpoint's).",
    ),
    key("data.preprocess.flip_prob", PROBABILITY, "Probability of a horizontal flip, in training only."),
    key(
        "data.augment.color_jitter_prob",
        PROBABILITY,
        "Probability of a brightness, contrast, saturation and hue jitter.",
    ),
    key("data.augment.color_jitter", PROBABILITY, "Strength of the jitter."),
    key("data.augment.blur_prob", PROBABILITY, "Probability of a Gaussian blur."),
    key("data.augment.noise_prob", PROBABILITY, "Probability of additive Gaussian noise."),
    key(
        "data.augment.noise_std",
        Real(Range::Within(0.0, 255.0)),
        "Standard deviation of the noise, in 8-bit grey levels.",
    ),
    key("data.augment.jpeg_prob", PROBABILITY, "Probability of a JPEG re-encoding."),
    key("data.augment.jpeg_quality", Pair(&Whole(1, 100)), "JPEG quality, `[low, high]`."),
    key("data.augment.zoom_prob", PROBABILITY, "Probability of a random zoom-and-shift crop."),
    key("data.augment.zoom_max", Real(Range::Within(1.0, 100.0)), "Largest zoom factor of the crop."),
    with("data.augment.mixup", Anything, OFF),
    with("data.sequence.enabled", Flag, OFF),
    with("data.sequence.length", POSITIVE, Status::Unavailable(Neutral::One, Some("data.sequence"))),
    with("data.sequence.stride", POSITIVE, Status::Unavailable(Neutral::One, Some("data.sequence"))),
    key(
        "data.absent_ball",
        Choice(&[word("mask", &[]), word("negative", &[])]),
        "What a frame without a ball teaches: `mask` = nothing, `negative` = an all-zero target.",
    ),
    key(
        "data.exif_orientation",
        Choice(&[word("apply", &[]), word("ignore", &[])]),
        "Which pixels the labels refer to: those of the pictures turned upright by their EXIF orientation (`apply`), or as \
         they are stored (`ignore`).",
    ),
    key(
        "data.on_bad_frame",
        Choice(&[word("skip", &[]), word("error", &[])]),
        "What becomes of a frame that cannot be read: `skip` = left out of its batch, named once and counted, `error` = it \
         ends the run.",
    ),
    key("model.model_name", MODEL_NAME, "The model. The three names mean the same: `lora` and `quantization` decide."),
    key(
        "model.pretrained_model_name",
        Nullable(&Text),
        "A Hugging Face model directory or hub id; null = random weights from `backbone.architecture`, and without that \
         facebook/dinov3-vits16-pretrain-lvd1689m.",
    ),
    with("model.temporal", Anything, OFF),
    key(
        "model.backbone.freeze",
        Flag,
        "Freeze every backbone weight; without LoRA, for `training.backbone_freeze_epochs` epochs if that is not 0. With LoRA they are frozen whatever this says.",
    ),
    with("model.backbone.device_map", Anything, Status::Ignored("the device is chosen by --device")),
    key("model.backbone.local_files_only", Flag, "Look for hub ids in the local cache only."),
    key("model.backbone.patch_size", Whole(1, 1024), "Side of a patch in pixels; must equal the checkpoint's."),
    with("model.backbone.return_stages", List(&Whole(1, 4), 1), Status::OtherModel),
    key(
        "model.backbone.architecture",
        Nullable(&Mapping),
        "A backbone without a checkpoint: keys of a Hugging Face `config.json`, `model_type` included.",
    ),
    key("model.decoder.channels", List(&POSITIVE, 2), "Channels `[C0, C1, …]`; `C0` is the backbone's hidden size."),
    key("model.decoder.upsample", List(&Whole(1, 64), 0), "Upsampling factor of each stage; missing factors are 1."),
    key("model.decoder.blocks_per_stage", Whole(0, 1024), "Residual blocks in each stage."),
    key("model.decoder.norm", Choice(&[word("gn", &[]), word("bn", &[])]), "Group or batch normalization."),
    key("model.decoder.activation", Choice(&[word("gelu", &[]), word("relu", &[])]), "Activation of the blocks."),
    key("model.decoder.use_depthwise", Flag, "Depthwise 3×3 convolutions instead of dense ones."),
    key("model.decoder.use_se", Flag, "Squeeze-and-excitation in the blocks."),
    key("model.decoder.se_reduction", POSITIVE, "Channel reduction of squeeze-and-excitation."),
    key("model.decoder.dropout", PROBABILITY, "Channel dropout in the blocks."),
    key("model.decoder.skip", Flag, "Concatenate stride-2 and stride-4 features of a light convolutional stem."),
    key(
        "model.decoder.pretrained",
        Nullable(&Text),
        "Decoder and head weights to start from: a `tracknet_head.safetensors`, or a directory that holds one.",
    ),
    with("model.fpn.in_channels", List(&POSITIVE, 1), Status::OtherModel),
    with("model.fpn.lateral_dim", POSITIVE, Status::OtherModel),
    with("model.fpn.fuse", Choice(&[word("sum", &[]), word("concat", &[])]), Status::OtherModel),
    with("model.hrnet.in_channels", List(&POSITIVE, 1), Status::OtherModel),
    with("model.hrnet.widths", List(&POSITIVE, 1), Status::OtherModel),
    with("model.hrnet.num_units", POSITIVE, Status::OtherModel),
    with("model.hrnet.out_channels", POSITIVE, Status::OtherModel),
    with("model.deformable_encoder.in_channels", List(&POSITIVE, 1), Status::OtherModel),
    with("model.deformable_encoder.d_model", POSITIVE, Status::OtherModel),
    with("model.deformable_encoder.nhead", POSITIVE, Status::OtherModel),
    with("model.deformable_encoder.num_encoder_layers", POSITIVE, Status::OtherModel),
    with("model.deformable_encoder.num_feature_levels", POSITIVE, Status::OtherModel),
    with("model.deformable_encoder.n_points", POSITIVE, Status::OtherModel),
    with("model.deformable_encoder.lateral_dim", POSITIVE, Status::OtherModel),
    with("model.deformable_encoder.fuse", Choice(&[word("sum", &[]), word("concat", &[])]), Status::OtherModel),
    key("model.heatmap.size", Pair(&PIXELS), "Heatmap size `[W, H]` in pixels."),
    key(
        "model.heatmap.sigma",
        Real(Range::Within(0.1, 1000.0)),
        "Standard deviation of the Gaussian target, in heatmap pixels.",
    ),
    key("model.lora.enabled", Flag, "Add LoRA adapters to the backbone."),
    key(
        "model.lora.adapter",
        Nullable(&Text),
        "An adapter directory (PEFT's layout) to start from; its `adapter_config.json` then decides the keys below.",
    ),
    key("model.lora.r", RANK, "Rank of the two thin matrices."),
    key("model.lora.lora_alpha", Real(Range::Positive), "The update is multiplied by `lora_alpha / r`."),
    key("model.lora.lora_dropout", PROBABILITY, "Dropout on the adapter's input, in training only."),
    key(
        "model.lora.target_modules",
        Targets,
        "What is adapted: a list of names or path suffixes, one regex over the whole path, `all-linear`, or null = \
         every attention projection and MLP linear.",
    ),
    key(
        "model.lora.exclude_modules",
        Targets,
        "What is not adapted although it is targeted, written as `target_modules`.",
    ),
    key(
        "model.lora.layers_to_transform",
        Nullable(&OneOrMany(&INDEX)),
        "Layers that are adapted, counted from 0, when `target_modules` is a list of names.",
    ),
    key(
        "model.lora.layers_pattern",
        Nullable(&OneOrMany(&Text)),
        "Names of the lists of layers that `layers_to_transform` counts in (`layer`); null = any.",
    ),
    key(
        "model.lora.rank_pattern",
        NullIsDefault(&Ordered(&RANK)),
        "Other ranks by module: the first key that is its path or the end of it counts, as a regex.",
    ),
    key("model.lora.alpha_pattern", NullIsDefault(&Ordered(&Real(Range::Positive))), "Other `lora_alpha` by module."),
    key(
        "model.lora.bias",
        Choice(&[word("none", &[]), word("all", &[]), word("lora_only", &[])]),
        "Which biases of the backbone train: `none`, those of adapted modules (`lora_only`), or `all`.",
    ),
    key(
        "model.lora.use_rslora",
        Flag,
        "Scale by `lora_alpha / sqrt(r)`, so that large ranks learn as fast as small ones.",
    ),
    key("model.lora.use_dora", Flag, "Learn the length of every row of an adapted weight by itself (DoRA)."),
    key(
        "model.lora.init_lora_weights",
        INIT,
        "First values: `true` = the update starts at zero; `gaussian`, `orthogonal` likewise; `olora`, `pissa`, `loftq` \
         start from the weight.",
    ),
    key("model.lora.loftq_config.loftq_bits", WholeOf(&[4]), "Bits of the base under `init_lora_weights: loftq`."),
    key(
        "model.lora.loftq_config.loftq_iter",
        Whole(1, 100),
        "Alternations of quantization and decomposition under `init_lora_weights: loftq`.",
    ),
    key(
        "model.lora.modules_to_save",
        Nullable(&TEXTS),
        "Modules of the backbone (`norm`, `layer.11.norm2`) that train as a whole beside the adapters.",
    ),
    key("model.lora.task_type", Nullable(&Text), "Accepted and recorded in adapter files."),
    with("model.lora.alora_invocation_tokens", Anything, OFF_IN_LORA),
    with("model.lora.arrow_config", Anything, OFF_IN_LORA),
    with("model.lora.corda_config", Anything, OFF_IN_LORA),
    with("model.lora.ensure_weight_tying", Anything, OFF_IN_LORA),
    with("model.lora.eva_config", Anything, OFF_IN_LORA),
    with("model.lora.fan_in_fan_out", Anything, OFF_IN_LORA),
    with("model.lora.kasa_config", Anything, OFF_IN_LORA),
    with("model.lora.layer_replication", Anything, OFF_IN_LORA),
    with("model.lora.lora_bias", Anything, OFF_IN_LORA),
    with("model.lora.lora_ga_config", Anything, OFF_IN_LORA),
    with("model.lora.megatron_config", Anything, OFF_IN_LORA),
    with("model.lora.monteclora_config", Anything, OFF_IN_LORA),
    with("model.lora.runtime_config", Anything, OFF_IN_LORA),
    with("model.lora.target_parameters", Anything, OFF_IN_LORA),
    with("model.lora.trainable_token_indices", Anything, OFF_IN_LORA),
    with("model.lora.use_bdlora", Anything, OFF_IN_LORA),
    with("model.lora.use_qalora", Anything, OFF_IN_LORA),
    with("model.lora.velora_config", Anything, OFF_IN_LORA),
    key("model.quantization.enabled", Flag, "Store the backbone's linear layers in 4 bits."),
    key(
        "model.quantization.quant_type",
        Choice(&[word("nf4", &[]), word("fp4", &[])]),
        "Codebook: NormalFloat or 4-bit float.",
    ),
    key(
        "model.quantization.compute_dtype",
        COMPUTE_DTYPE,
        "What dequantized weights are rounded to, and with bfloat16 the activations that they multiply.",
    ),
    key("model.quantization.skip_modules", Nullable(&TEXTS), SKIP_MODULES),
    key(
        "model.quantization.mode",
        Choice(&[word("manual", &[]), word("hf", &[])]),
        "How `skip_modules` is read. Each weight is packed while it is read; in mode `manual` after, when adapters start \
         from the float weights or from a directory.",
    ),
    key("model.quantization.compress_statistics", Flag, "Double quantization: the scales are quantized to 8 bits too."),
    key(
        "model.quantization.use_double_quant",
        Nullable(&Flag),
        "Double quantization in mode `hf`; null = what `compress_statistics` says.",
    ),
    key("model.quantization.blocksize", BLOCKSIZES, "Weights that share a scale."),
    key("training.seed", Whole(0, MAX), "Seeds everything: same seed, same machine → same run. `--seed` sets it."),
    key("training.batch_size", POSITIVE, "Frames per optimizer step."),
    key("training.epochs", POSITIVE, "Passes over the training games."),
    key(
        "training.precision",
        PRECISION,
        "Mixed precision where the device has it, else fp32 with a note; the CPU has bf16 for frozen backbones. Old spelling: `amp: true` = `fp16`, `amp: false` = `fp32`.",
    ),
    with("training.amp", Nullable(&Flag), Status::Working),
    key("training.grad_clip", Real(Range::NotNegative), "Largest global norm of the gradients; 0 = off."),
    key(
        "training.grad_clip_norm",
        Real(Range::NotNegative),
        "Second spelling of `grad_clip`; the smaller of the two counts.",
    ),
    key(
        "training.backbone_freeze_epochs",
        COUNT,
        "Epochs before the backbone (with LoRA: the adapters) starts to train.",
    ),
    key("training.adaptive_micro_batch", Flag, "Split a batch that does not fit in memory."),
    key("training.min_micro_batch_size", POSITIVE, "Smallest micro-batch that is tried."),
    key("training.mb_backoff_factor", Whole(2, 1024), "Factor by which a micro-batch that does not fit shrinks."),
    key("training.oom_retries", COUNT, "How often a micro-batch shrinks before the run gives up."),
    key("training.micro_batch_size", COUNT, "Frames per forward pass; 0 = the whole batch."),
    key(
        "training.gradient_checkpointing",
        Flag,
        "Keep only the input of each frozen transformer block for the backward pass, and compute the rest again.",
    ),
    key("training.data_loader.num_workers", Whole(0, 4096), "Decode threads."),
    key("training.data_loader.pin_memory", Flag, "Accepted; memory is never pinned."),
    key("training.data_loader.persistent_workers", Flag, "Accepted; workers always persist."),
    key(
        "training.data_loader.prefetch_factor",
        NullIsDefault(&Whole(0, 4096)),
        "Batches decoded ahead of the training step.",
    ),
    key("training.data_loader.drop_last", Flag, "Drop the last, smaller batch of a training epoch."),
    key("training.optimizer.name", Choice(&[word("adamw", &[]), word("sgd", &[])]), "The optimizer."),
    key("training.optimizer.lr", Real(Range::Positive), "Learning rate."),
    key("training.optimizer.weight_decay", Real(Range::NotNegative), "Decoupled weight decay."),
    key("training.optimizer.momentum", Real(Range::UnitBelowOne), "Momentum of `sgd`."),
    key(
        "training.optimizer.backbone_lr",
        Nullable(&Real(Range::Positive)),
        "Learning rate of the backbone's weights and adapters; null = `lr`.",
    ),
    key("training.optimizer.exclude_bias_and_norm", Flag, "Leave biases and normalization weights out of the decay."),
    key("training.optimizer.exclude_adapters", Flag, "Leave adapters out of the decay."),
    key(
        "training.scheduler.name",
        Choice(&[word("cosine", &[]), word("constant", &[])]),
        "The learning rate after the warm-up.",
    ),
    key("training.scheduler.warmup_epochs", COUNT, "Epochs of linear warm-up."),
    key(
        "training.scheduler.warmup_start_factor",
        Real(Range::UnitAboveZero),
        "Factor of the learning rate at the start of the warm-up.",
    ),
    key(
        "training.scheduler.interval",
        Choice(&[word("epoch", &[]), word("step", &[])]),
        "When the learning rate moves.",
    ),
    key("training.loss.name", Choice(&[word("mse", &[]), word("focal", &[]), word("wbce", &[])]), "The loss."),
    key("training.loss.alpha", Real(Range::NotNegative), "Focusing exponent of `focal`."),
    key("training.loss.beta", Real(Range::NotNegative), "Exponent of `focal` that spares pixels near the peak."),
    key(
        "training.early_stopping.enabled",
        Flag,
        "Stop early. A file that has the section without this key switches it on.",
    ),
    key("training.early_stopping.monitor", Text, "Watched metric; it also decides which checkpoint is `best`."),
    key(
        "training.early_stopping.mode",
        Choice(&[word("min", &[]), word("max", &[])]),
        "Whether smaller or larger is better.",
    ),
    key("training.early_stopping.patience", COUNT, "Epochs without improvement before the run stops."),
    key(
        "training.early_stopping.min_delta",
        Real(Range::NotNegative),
        "Smallest change that counts as an improvement.",
    ),
    with("training.ema.decay", Anything, OFF),
    key("training.limit_train_batches", COUNT, "Train on at most this many batches an epoch; 0 = all."),
    key("training.limit_val_batches", COUNT, "Validate on at most this many batches; 0 = all."),
    key("training.output_dir", Text, "Where runs are written. `--output-dir` moves this and the next two."),
    key("training.log_dir", Text, "Where logs are written."),
    key("training.ckpt_dir", Text, "Where checkpoints are written."),
    with("runtime.seed", Whole(0, MAX), Status::Derived),
    with("runtime.run_id", Text, Status::Derived),
    with("runtime.output_dir", Text, Status::Derived),
    with("runtime.log_dir", Text, Status::Derived),
    with("runtime.ckpt_dir", Text, Status::Derived),
];
