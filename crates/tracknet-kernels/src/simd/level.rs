//! The instruction sets that this machine has, and the one place where code is compiled for them.

use std::sync::OnceLock;

use super::{Kernel, Portable};

/// Instruction sets that kernels know, each with all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InstructionSet {
    /// What every processor of the target has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// Dot products of bfloat16.
    Avx512Bf16,
    /// The matrix unit for bfloat16.
    AmxBf16,
}

impl InstructionSet {
    const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::AmxBf16];

    /// Whether this machine has what this set adds to the ones before it.
    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Self::Avx512Bf16 => is_x86_feature_detected!("avx512bf16"),
            Self::AmxBf16 => has_amx_bf16() && is_amx_permitted(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Self::Portable
    }
}

/// Rust's macro does not know the matrix unit yet.
#[cfg(target_arch = "x86_64")]
fn has_amx_bf16() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
}

/// Asks for the registers of the matrix unit, which the system saves for a process only on request. The permission
/// (<https://docs.kernel.org/arch/x86/xstate.html>) holds for all threads of the process.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn is_amx_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of this process; a kernel that does not know it, or
    // refuses, says so by its result.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn is_amx_permitted() -> bool {
    false
}

/// An instruction set that this machine has, and all before it. Every choice between implementations is a question to
/// a value of this type, and unsafe code may rely on the answer: only [`Level::available`] makes values.
///
/// Operations take the level as an argument and choose it in one place, where they are called by the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(InstructionSet);

impl Level {
    /// What every machine has.
    pub(crate) const PORTABLE: Self = Self(InstructionSet::Portable);

    /// All that this machine has, the best last; tests force each.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        static AVAILABLE: OnceLock<Vec<Level>> = OnceLock::new();
        let found = || InstructionSet::ALL.into_iter().take_while(|set| set.is_available()).map(Level).collect();
        AVAILABLE.get_or_init(found).iter().copied()
    }

    /// The best that this machine has.
    pub(crate) fn best() -> Self {
        Self::available().last().unwrap_or(Self::PORTABLE)
    }

    /// Whether the instructions of `set` may be used.
    pub(crate) fn has(self, set: InstructionSet) -> bool {
        self.0 >= set
    }

    /// Runs the copy of a kernel for this level.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        match self.0 {
            InstructionSet::Portable => run_portable(kernel),
            // SAFETY: the value exists only if `available` found the features on this machine.
            InstructionSet::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            InstructionSet::Avx512Bf16 | InstructionSet::AmxBf16 if K::MULTIPLIES_BF16 => unsafe {
                x86::run_avx512_bf16(kernel)
            },
            // SAFETY: as above.
            InstructionSet::Avx512 | InstructionSet::Avx512Bf16 | InstructionSet::AmxBf16 => unsafe {
                x86::run_avx512(kernel)
            },
        }
        #[cfg(not(target_arch = "x86_64"))]
        run_portable(kernel)
    }
}

#[inline]
fn run_portable<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(all(test, feature = "flex"))]
    crate::entered::count(("simd", "portable"));
    kernel.run(Portable)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::x86::{Avx2, Avx512, Avx512Bf16};
    use super::Kernel;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        #[cfg(all(test, feature = "flex"))]
        crate::entered::count(("simd", "AVX2"));
        kernel.run(Avx2(()))
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        #[cfg(all(test, feature = "flex"))]
        crate::entered::count(("simd", "AVX-512"));
        kernel.run(Avx512(()))
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
        #[cfg(all(test, feature = "flex"))]
        crate::entered::count(("simd", "AVX512-BF16"));
        kernel.run(Avx512Bf16(()))
    }
}
