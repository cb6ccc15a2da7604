#!/usr/bin/env python3
"""How far a few labels of one's own match go: fine-tunes the shipped detector on some labelled frames of some clips of a match
and measures it on the other clips, for several numbers of frames, ways to train and seeds (docs/accuracy.md).

  few_labels.py TRACKNET GAME OUT [--labels 0,10,25,50,100,200] [--ways nf4,float,full,light] [--seeds 0,1,2] [--jobs 1]
                [--rendered DIR --rendered-games 20] [--device cpu] [--set SECTION.KEY=VALUE ...]

TRACKNET  the program; run it where `assets` and `configs` are
GAME      a game in the tennis layout: GAME/CLIP/{0000.jpg, Label.csv}
OUT       gets the splits (links to the frames) and the runs; finished runs in it are not run again

A seed shuffles the clips and parts them into two halves by their number of frames; labels are drawn from one half, a fifth of
them from clips of their own, which validate. With --rendered every training also sees the games of DIR. Prints a line of JSON
for each run. Needs nothing but Python.
"""
import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

WAYS = dict(
    nf4=[],
    float=["model.quantization.enabled=false"],
    full=[
        "model.quantization.enabled=false", "model.lora.enabled=false", "model.backbone.freeze=false",
        "training.optimizer.backbone_lr=2e-5",
    ],
    light=["model.lora.enabled=false"],
)


def read_clips(game):
    clips = {}
    for name in sorted(os.listdir(game)):
        path = os.path.join(game, name, "Label.csv")
        if os.path.exists(path):
            with open(path, newline="") as file:
                header, *rows = list(csv.reader(file))
            clips[name] = rows
    return header, clips


def write_game(folder, game, header, rows_of_clips):
    for clip, rows in rows_of_clips.items():
        target, source = os.path.join(folder, clip), os.path.join(game, clip)
        os.makedirs(target)
        for name in os.listdir(source):
            if name != "Label.csv":
                os.symlink(os.path.abspath(os.path.join(source, name)), os.path.join(target, name))
        with open(os.path.join(target, "Label.csv"), "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


def sample(clips, names, count, rng):
    """So many rows of some clips, by clip; clips of which none is drawn are left out."""
    rows = [(name, row) for name in names for row in clips[name]]
    chosen = rng.sample(rows, min(count, len(rows)))
    return {name: [row for other, row in sorted(chosen) if other == name] for name in sorted({name for name, _ in chosen})}


def make_split(game, folder, labels, seed, rendered, rendered_games):
    header, clips = read_clips(game)
    rng = random.Random(seed)
    order = sorted(clips)
    rng.shuffle(order)
    frames, ours = sum(map(len, clips.values())), []
    for name in order:
        if sum(len(clips[n]) for n in ours) + len(clips[name]) / 2 < frames / 2:
            ours.append(name)
    held = []  # a fifth of our half validates
    for name in ours:
        if sum(len(clips[n]) for n in held) + len(clips[name]) / 2 < frames / 10:
            held.append(name)
    train = [name for name in ours if name not in held]
    test = [name for name in order if name not in ours]
    validating = max(2, round(labels / 5))
    write_game(os.path.join(folder, "train"), game, header, sample(clips, train, labels - validating, rng))
    write_game(os.path.join(folder, "val"), game, header, sample(clips, held, validating, rng))
    write_game(os.path.join(folder, "test"), game, header, {name: clips[name] for name in test})
    for number in range(1, rendered_games + 1 if rendered else 1):
        os.symlink(os.path.abspath(os.path.join(rendered, f"game{number}")), os.path.join(folder, f"game{number}"))


def call(command, log):
    with open(log, "w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{' '.join(command)} failed, see {log}")


def measure(args, config, run, folder, track):
    path = os.path.join(folder, f"test{'-track' if track else ''}.json")
    extra = ["--track"] if track else []
    call([args.tracknet, "eval", run, "--games", "test", "--json", path, "--device", args.device, *extra, *config], path + ".log")
    with open(path) as file:
        total = json.load(file)["total"]
    best = total["best"]
    return dict(
        frames=total["frames"], f1=round(total["detection"]["f1"], 4), best_f1=round(best["f1"], 4),
        at=round(best["threshold"], 2), ap=round(total["detection"]["average_precision"], 4),
    )


def one(args, labels, way, seed):
    name = f"{way}-{labels}-s{seed}"
    folder = os.path.join(args.out, name)
    done = os.path.join(folder, "result.json")
    if os.path.exists(done):
        with open(done) as file:
            return json.load(file)
    make_split(args.game, os.path.join(folder, "data"), max(labels, 10), seed, args.rendered, args.rendered_games)
    games = ["train"] + [f"game{n}" for n in range(1, args.rendered_games + 1 if args.rendered else 1)]
    config = [f"data.root={folder}/data"]
    settings = [
        f"data.split.train_games=[{','.join(games)}]", "data.split.val_games=[val]", f"training.seed={seed}", *WAYS[way],
        *args.overrides,
    ]
    if labels == 0:  # as it ships: a run that changes nothing
        settings += ["training.epochs=1", "training.limit_train_batches=1", "training.optimizer.lr=1e-20", "training.calibrate=false"]
    clock = time.time()
    command = [
        args.tracknet, "train", "--data", "finetune", "--model", "finetune", "--training", "finetune", "--device", args.device,
        "--output-dir", f"{folder}/out", *config, *settings,
    ]
    call(command, os.path.join(folder, "train.log"))
    seconds = round(time.time() - clock)
    runs = [e.path for e in os.scandir(f"{folder}/out") if e.is_dir() and os.path.exists(f"{e.path}/evaluation.json")]
    result = dict(labels=labels, way=way, seed=seed, seconds=seconds, **measure(args, config, runs[0], folder, False))
    result["tracked_f1"] = measure(args, config, runs[0], folder, True)["f1"]
    with open(done, "w") as file:
        json.dump(result, file)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tracknet", "game", "out"):
        parser.add_argument(name)
    parser.add_argument("--labels", default="0,10,25,50,100,200")
    parser.add_argument("--ways", default="nf4,float,full,light")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rendered")
    parser.add_argument("--rendered-games", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    args = parser.parse_args()
    ways, seeds = args.ways.split(","), [int(seed) for seed in args.seeds.split(",")]
    jobs = [(n, way, seed) for n in map(int, args.labels.split(",")) for way in ways if n or way in ("nf4", "float") for seed in seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        for result in pool.map(lambda job: one(args, *job), jobs):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
