//! What a device could not do.

/// A tensor could not be read back from the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading `{name}` from the device: {problem}")]
pub struct DeviceError {
    /// Tensor name.
    pub name: String,
    /// What the backend said.
    pub problem: String,
}

impl DeviceError {
    /// `problem` is what the backend said when the tensor `name` was read.
    pub fn new(name: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self { name: name.into(), problem: problem.to_string() }
    }

    /// What the device said when it had no memory left for what was to be read. It is usable, and less at once may fit.
    pub fn out_of_memory(&self) -> Option<&str> {
        self.problem.lines().map(str::trim).find(|line| line.contains("out of device memory"))
    }
}

#[cfg(test)]
mod tests {
    use super::DeviceError;

    #[test]
    fn what_the_device_said_about_its_memory_is_found_among_what_else_failed() {
        let said = "Several failures at once\nCaused by:\n  skipped `ReduceKernel`: it needed memory\nCaused by:\n  \
                    out of device memory allocating 154140672 bytes\nNo backtrace available";
        let error = DeviceError::new("loss", said);
        assert_eq!(error.out_of_memory(), Some("out of device memory allocating 154140672 bytes"));
        assert_eq!(DeviceError::new("loss", "the device was lost").out_of_memory(), None);
    }
}
