//! What the processor can reach at most, measured: products and sums on registers alone, on every thread at once.
//!
//! A kernel's rate as a share of this says how much of the processor it uses, whatever machine it runs on. Each thread
//! counts the time that it ran, so that other work on the machine takes nothing off, except through the clock rate and
//! cores that are threads of one.

use std::hint::black_box;
use std::time::Instant;

#[cfg(all(target_arch = "x86_64", feature = "flex"))]
use crate::product::amx;

/// A measured rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// 10⁹ products and sums a second, on all threads of the pool together.
    pub gflops: f64,
    /// The instruction that reached it.
    pub instructions: &'static str,
}

/// Products and sums of 32-bit floats.
pub fn f32() -> Peak {
    best(&f32_loops())
}

/// Products of bfloat16 factors with 32-bit sums; what [`f32()`] says where there are no instructions for them.
pub fn bf16() -> Peak {
    best(&bf16_loops())
}

/// Copies between memory blocks that no cache holds, bytes read and written counted, in GB/s.
pub fn memory() -> f64 {
    const VALUES: usize = 1 << 23;
    let threads = rayon::current_num_threads();
    let mut rate = 0.0_f64;
    let blocks: Vec<_> = rayon::broadcast(|_| std::sync::Mutex::new((vec![1.0_f32; VALUES], vec![0.0_f32; VALUES])));
    for _ in 0..5 {
        let clock = Instant::now();
        rayon::broadcast(|context| {
            if let Ok(mut block) = blocks[context.index()].lock() {
                let (from, to) = &mut *block;
                to.copy_from_slice(from);
                black_box(to);
            }
        });
        rate = rate.max((threads * VALUES * 8) as f64 / clock.elapsed().as_secs_f64() / 1e9);
    }
    rate
}

/// A loop over registers.
#[derive(Clone, Copy)]
struct Loop {
    instructions: &'static str,
    /// Products and sums of one round.
    operations: usize,
    /// Runs some rounds; the result depends on all of them.
    run: fn(rounds: usize) -> f32,
}

/// The best that one of the loops reaches.
fn best(loops: &[Loop]) -> Peak {
    let rate = |l: &Loop| Peak { gflops: rate(l), instructions: l.instructions };
    let first = Peak { gflops: 0.0, instructions: "none" };
    loops.iter().map(rate).fold(first, |best, peak| if peak.gflops > best.gflops { peak } else { best })
}

/// The sum of what the threads reach when all run, each the best of some short runs.
fn rate(l: &Loop) -> f64 {
    const RUNS: usize = 15;
    let seconds = |rounds: usize| {
        let clock = Clock::start();
        black_box((l.run)(black_box(rounds)));
        clock.seconds()
    };
    let rates = rayon::broadcast(|_| {
        // Rounds that take some milliseconds.
        let mut rounds = 1 << 12;
        while seconds(rounds) < 5e-3 {
            rounds *= 2;
        }
        let shortest = (0..RUNS).map(|_| seconds(rounds)).fold(f64::INFINITY, f64::min);
        (rounds * l.operations) as f64 / shortest / 1e9
    });
    rates.iter().sum()
}

/// Time that this thread ran: without the time when others had its core, where the system tells.
struct Clock(Instant, Option<f64>);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), thread_seconds())
    }

    fn seconds(&self) -> f64 {
        let run = self.1.zip(thread_seconds()).map(|(before, after)| after - before);
        run.filter(|seconds| *seconds > 0.0).unwrap_or_else(|| self.0.elapsed().as_secs_f64())
    }
}

#[cfg(unix)]
fn thread_seconds() -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes a time to the pointer, which is valid, and nothing else.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
    (!failed).then_some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

#[cfg(not(unix))]
fn thread_seconds() -> Option<f64> {
    None
}

fn f32_loops() -> Vec<Loop> {
    let mut loops = vec![portable::F32];
    #[cfg(target_arch = "x86_64")]
    loops.extend(x86::f32_loops());
    loops
}

fn bf16_loops() -> Vec<Loop> {
    let mut loops = Vec::new();
    #[cfg(target_arch = "x86_64")]
    loops.extend(x86::bf16_loop());
    #[cfg(all(target_arch = "x86_64", feature = "flex"))]
    if amx::spin(0).is_some() {
        let run = |rounds| amx::spin(rounds).map_or(f32::NAN, |()| 0.0);
        loops.push(Loop { instructions: "AMX-BF16 tiles", operations: amx::SPIN_OPERATIONS, run });
    }
    if loops.is_empty() { f32_loops() } else { loops }
}

mod portable {
    use super::Loop;

    const SUMS: usize = 10;
    const LANES: usize = 4;

    pub(super) const F32: Loop = Loop { instructions: "baseline", operations: 2 * SUMS * LANES, run };

    fn run(rounds: usize) -> f32 {
        let mut sums = [[1.0_f32; LANES]; SUMS];
        for _ in 0..rounds {
            for sum in sums.iter_mut().flatten() {
                // x86-64 has no fused instruction that every processor has; elsewhere it is the baseline.
                *sum = if cfg!(target_arch = "x86_64") { *sum * 0.5 + 0.5 } else { sum.mul_add(0.5, 0.5) };
            }
            std::hint::black_box(&mut sums);
        }
        sums.iter().flatten().sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Loop;
    use crate::simd::{InstructionSet, Level};

    /// Two a cycle with a latency of four cycles need eight sums under way; with the factors they fit the 16 registers
    /// of AVX2.
    const SUMS: usize = 12;
    /// Dot products take longer; AVX-512 has 32 registers.
    const DOT_SUMS: usize = 20;

    pub(super) fn f32_loops() -> Vec<Loop> {
        let mut loops = Vec::new();
        if Level::best().has(InstructionSet::Avx2) {
            // SAFETY: the level has the features.
            let run = |rounds| unsafe { fma_256(rounds) };
            loops.push(Loop { instructions: "AVX2 FMA", operations: 2 * SUMS * 8, run });
        }
        if Level::best().has(InstructionSet::Avx512) {
            // SAFETY: as above.
            let run = |rounds| unsafe { fma_512(rounds) };
            loops.push(Loop { instructions: "AVX-512 FMA", operations: 2 * SUMS * 16, run });
        }
        loops
    }

    pub(super) fn bf16_loop() -> Option<Loop> {
        if !Level::best().has(InstructionSet::Avx512Bf16) {
            return None;
        }
        // SAFETY: the level has the features.
        let run = |rounds| unsafe { dot_512(rounds) };
        Some(Loop { instructions: "AVX512-BF16 dot products", operations: 4 * DOT_SUMS * 16, run })
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256(rounds: usize) -> f32 {
        let half = _mm256_set1_ps(std::hint::black_box(0.5));
        let mut sums = [_mm256_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, half, half);
            }
        }
        let total = sums.into_iter().fold(half, |total, sum| _mm256_add_ps(total, sum));
        _mm256_cvtss_f32(total)
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512(rounds: usize) -> f32 {
        let half = _mm512_set1_ps(std::hint::black_box(0.5));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, half, half);
            }
        }
        let total = sums.into_iter().fold(half, |total, sum| _mm512_add_ps(total, sum));
        _mm512_cvtss_f32(total)
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot_512(rounds: usize) -> f32 {
        let factors = _mm512_cvtneps_pbh(_mm512_set1_ps(std::hint::black_box(1.0 / 1024.0)));
        // SAFETY: both are plain bits; the upper half is set in the line below.
        let pairs: __m512bh = unsafe {
            let low: __m256i = std::mem::transmute(factors);
            std::mem::transmute(_mm512_broadcast_i64x4(low))
        };
        let mut sums = [_mm512_set1_ps(1.0); DOT_SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
            }
        }
        let total = sums.into_iter().fold(_mm512_setzero_ps(), |total, sum| _mm512_add_ps(total, sum));
        _mm512_cvtss_f32(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop that is missing would make every kernel look better than it is.
    #[cfg(all(target_os = "linux", target_arch = "x86_64", feature = "flex"))]
    #[test]
    fn there_is_a_loop_for_all_that_the_processor_has() {
        let features = crate::entered::tests::features().unwrap();
        let loops: Vec<_> = f32_loops().into_iter().chain(bf16_loops()).map(|l| l.instructions).collect();
        let all = [
            ("AVX2 FMA", ["avx2", "fma"]),
            ("AVX-512 FMA", ["avx512f", "avx512f"]),
            ("AVX512-BF16 dot products", ["avx512f", "avx512_bf16"]),
            ("AMX-BF16 tiles", ["amx_tile", "amx_bf16"]),
        ];
        for (name, needed) in all {
            let has = needed.iter().all(|needed| features.iter().any(|feature| feature == needed));
            assert_eq!(loops.contains(&name), has, "{name}: {loops:?}");
        }
    }

    #[test]
    fn every_loop_computes_what_its_rounds_say() {
        for l in f32_loops() {
            // 1 · 0.5 + 0.5 stays 1, whatever the rounds: nothing is left out or overflows.
            let one = (l.run)(1);
            assert!(one >= 10.0, "{}: {one}", l.instructions);
            assert_eq!((l.run)(1001), one, "{}", l.instructions);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(l) = x86::bf16_loop() {
            // Each round adds twice 2⁻²⁰ to each of twenty sums of 1.
            let expected = |rounds: usize| 20.0 * (1.0 + rounds as f32 * 2.0 / 1_048_576.0);
            for rounds in [0, 1, 1001] {
                // Twenty sums are added up in f32.
                assert!(((l.run)(rounds) - expected(rounds)).abs() < 1e-4, "{rounds} rounds");
            }
        }
    }

    #[test]
    fn rates_are_positive_and_finite() {
        for peak in [f32(), bf16()] {
            assert!(peak.gflops.is_finite() && peak.gflops > 0.0, "{peak:?}");
        }
        assert!(memory() > 0.0);
    }
}
