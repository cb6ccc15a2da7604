//! Whether CUDA kernels can be compiled on this machine.

use cubecl_cuda::install::cuda_path;

/// What is missing to compile kernels for a CUDA device, with what to do about it; `None` if nothing is.
///
/// Kernels are compiled when they first run, by NVRTC, which is loaded then, with the headers of the CUDA toolkit.
pub fn missing_compiler() -> Option<String> {
    let Some(toolkit) = cuda_path() else {
        return Some("the CUDA toolkit was not found in its usual places: set CUDA_PATH to where it is".to_owned());
    };
    let header = toolkit.join("include/cuda_fp16.h");
    if !header.is_file() {
        return Some(format!("{} does not exist: set CUDA_PATH to a CUDA toolkit with its headers", header.display()));
    }
    // SAFETY: the call only tries to load the library under each of its names.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Some(
            "libnvrtc cannot be loaded: add its directory, such as /usr/local/cuda/lib64, to LD_LIBRARY_PATH"
                .to_owned(),
        );
    }
    None
}
