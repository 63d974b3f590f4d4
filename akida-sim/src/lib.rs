//! The quantized model and its exact integer executor
