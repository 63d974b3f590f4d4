//! Quantize a trained network to fixed point, calibrate it and simulate it in exact integers
