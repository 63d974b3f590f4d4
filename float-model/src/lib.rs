//! The float graph: layers, shapes, builder, summary, rewrites, evaluation
