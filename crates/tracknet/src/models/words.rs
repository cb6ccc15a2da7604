//! The words of configurations, files and flags as the types of the kernels, which know no configuration.

use tracknet_kernels::{ComputeDtype, QuantType};

use crate::config::{DtypeName, QuantTypeName};

/// The dtype that weights are rounded to.
pub const fn compute_dtype(name: DtypeName) -> ComputeDtype {
    match name {
        DtypeName::Bfloat16 => ComputeDtype::Bf16,
        DtypeName::Float16 => ComputeDtype::F16,
        DtypeName::Float32 => ComputeDtype::F32,
    }
}

/// The word for a dtype that weights are rounded to.
pub const fn dtype_name(dtype: ComputeDtype) -> DtypeName {
    match dtype {
        ComputeDtype::Bf16 => DtypeName::Bfloat16,
        ComputeDtype::F16 => DtypeName::Float16,
        ComputeDtype::F32 => DtypeName::Float32,
    }
}

/// The 4-bit codebook.
pub const fn quant_type(name: QuantTypeName) -> QuantType {
    match name {
        QuantTypeName::Nf4 => QuantType::Nf4,
        QuantTypeName::Fp4 => QuantType::Fp4,
    }
}

/// The word for a 4-bit codebook.
pub const fn quant_type_name(quant_type: QuantType) -> QuantTypeName {
    match quant_type {
        QuantType::Nf4 => QuantTypeName::Nf4,
        QuantType::Fp4 => QuantTypeName::Fp4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Words;

    #[test]
    fn words_and_types_of_the_kernels_are_one_to_one() {
        for &name in DtypeName::VARIANTS {
            assert_eq!(dtype_name(compute_dtype(name)), name);
        }
        for &name in QuantTypeName::VARIANTS {
            assert_eq!(quant_type_name(quant_type(name)), name);
            assert_eq!(quant_type(name).name(), name.name());
        }
    }
}
