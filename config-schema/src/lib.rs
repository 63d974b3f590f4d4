//! QuantizationParams and q_config: parse, check, merge, explain, dump
