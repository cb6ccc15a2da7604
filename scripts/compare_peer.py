#!/usr/bin/env python3
"""Measures tracknet and another program alternately, and prints the ratio of their medians.

  scripts/compare_peer.py --peer "python peer.py one" train/qlora/S/b4=qlora_S_bf16,qlora_S_fp32 infer/nf4/S/b1=nf4_S

Each pair is the name of a workload (tracknet bench --list) and one or more names that the peer command understands as
its last argument; of several the fastest counts. The last line of the peer's output that holds a JSON object must have
`median` (ms), and may have `peak_run_mb` (MiB). Both sides run in turn for every round, so that other work on the
machine meets both; medians are over the rounds' medians. Needs only the standard library.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile


def ours(args, workload):
    """Median in ms and peak in MiB of a workload, and the machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'bench.json')
        command = [args.tracknet, 'bench', workload, '--threads', str(args.threads), '--json', path, *args.set]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(path) as file:
            report = json.load(file)
    found = next(w for w in report['workloads'] if w['name'] == workload)
    peak = found['peak_bytes']
    return found['time']['median_ms'], peak and peak / 2**20, report['machine']


def peer(args, name):
    """Median in ms and peak in MiB of what the peer calls `name`."""
    run = subprocess.run([*shlex.split(args.peer), name], capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if '{' in line]
    if run.returncode != 0 or not lines:
        sys.exit(f'{args.peer} {name} failed ({run.returncode}):\n{run.stderr[-2000:]}')
    result = json.loads(lines[-1][lines[-1].index('{'):])
    return result['median'], result.get('peak_run_mb')


def compare(args, workload, names):
    """A row of the table, and the machine."""
    times, peaks = {}, {}
    for _ in range(args.rounds):
        for name in (None, *names):
            if name is None:
                ms, peak, machine = ours(args, workload)
            else:
                ms, peak = peer(args, name)
            times.setdefault(name, []).append(ms)
            peaks.setdefault(name, []).append(peak)
            print(f'  {name or "tracknet"}: {ms:.1f} ms, {peak or 0:.0f} MiB', file=sys.stderr, flush=True)
    median = {name: statistics.median(ms) for name, ms in times.items()}
    peak = {name: max((p for p in of if p), default=None) for name, of in peaks.items()}
    fastest = min(names, key=median.get)
    leanest = min((n for n in names if peak[n]), key=peak.get, default=None)
    memory = [f'{peak[None]:.0f}' if peak[None] else '–', f'{peak[leanest]:.0f} ({leanest})' if leanest else '–']
    share = f'{peak[None] / peak[leanest]:.2f}' if leanest and peak[None] else '–'
    row = [workload, f'{median[None]:.1f}', f'{median[fastest]:.1f} ({fastest})',
           f'{median[fastest] / median[None]:.2f}×', *memory, share]
    return f'| {" | ".join(row)} |', machine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('pairs', nargs='+', metavar='WORKLOAD=NAME[,NAME]')
    parser.add_argument('--peer', required=True, help='the command that measures one of its names')
    parser.add_argument('--tracknet', default='target/release/tracknet', help='our program')
    parser.add_argument('--threads', type=int, default=2, help='ours; the peer sets its own')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--set', action='append', default=[], metavar='SECTION.KEY=VALUE', help='for our configuration')
    args = parser.parse_args()
    pairs = [pair.partition('=') for pair in args.pairs]
    if any(not names for _, _, names in pairs):
        parser.error('each pair is WORKLOAD=NAME[,NAME]')
    known = subprocess.run([args.tracknet, 'bench', '--list'], check=True, capture_output=True, text=True).stdout.split()
    for workload, _, _ in pairs:
        if workload not in known:
            parser.error(f'{workload} is no workload; there are {", ".join(known)}')
    rows, machines = zip(*(compare(args, workload, names.split(',')) for workload, _, names in pairs))
    machine = machines[0]
    print(f'{machine["processor"]}, {machine["threads"]} threads, {args.rounds} rounds\n')
    print('| workload | ours, ms | peer, ms | faster | ours, MiB | leanest peer, MiB | share |\n|---|---|---|---|---|---|---|')
    print('\n'.join(rows))


if __name__ == '__main__':
    main()
