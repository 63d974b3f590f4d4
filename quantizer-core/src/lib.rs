//! Fixed-point numerics of quantized layers: the specification in code
