//! Matrix products.

use float_model::{Activation, Dense, Layer};
use ndarray::{Array1, Array2};

use super::call::Call;
use super::network::{Network, Value, View};
use super::refused::Refused;

/// `Gemm`: `alpha * A * B + beta * C`.
pub(super) fn gemm(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    if call.int("transA", 0) != 0 {
        return Err(Refused::unsupported("transA"));
    }
    let (alpha, beta) = (call.float("alpha", 1.0), call.float("beta", 1.0));
    let mut kernel = weights(network, call)?;
    if call.int("transB", 0) != 0 {
        kernel = kernel.reversed_axes().as_standard_layout().into_owned();
    }
    if alpha.to_bits() != 1.0_f32.to_bits() {
        kernel.mapv_inplace(|w| w * alpha);
    }
    let bias = match call.input(2) {
        None => None,
        Some(name) => {
            let constant = network.constant(name)?;
            let values = constant.floats();
            let units = kernel.ncols();
            let all = match values.as_slice() {
                [value] => vec![*value; units],
                _ if values.len() == units => values,
                _ => {
                    return Err(Refused::unsupported(format!(
                        "a bias of extents {:?}",
                        constant.shape
                    )));
                }
            };
            Some(Array1::from_vec(all).mapv(|b| b * beta))
        }
    };
    dense(network, call, kernel, bias)
}

/// `MatMul` with constant weights.
pub(super) fn mat_mul(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let kernel = weights(network, call)?;
    dense(network, call, kernel, None)
}

fn weights(network: &Network, call: &Call<'_>) -> Result<Array2<f32>, Refused> {
    let name = call
        .input(1)
        .ok_or_else(|| Refused::invalid("has no weights"))?;
    let constant = network.constant(name)?;
    match *constant.shape.as_slice() {
        [a, b] => Array2::from_shape_vec((a, b), constant.floats())
            .map_err(|e| Refused::invalid(e.to_string())),
        _ => Err(Refused::unsupported(format!(
            "weights of extents {:?}",
            constant.shape
        ))),
    }
}

fn dense(
    network: &mut Network,
    call: &Call<'_>,
    kernel: Array2<f32>,
    bias: Option<Array1<f32>>,
) -> Result<View, Refused> {
    let name = call.layer_name();
    let input = call
        .input(0)
        .ok_or_else(|| Refused::invalid("has no input"))?;
    let (layer, kernel, rank) = match network.get(input)?.clone() {
        Value::Flat(view) => {
            let (flat, kernel) = flattened(network, &view, kernel, &name)?;
            (flat, kernel, 2)
        }
        Value::View(_) | Value::Constant(_) | Value::Part(..) | Value::Unknown => {
            let view = network.view(input, &name)?;
            (network.natural(&view, &name)?, kernel, view.rank())
        }
    };
    let dense = Layer::Dense(Dense {
        kernel,
        bias,
        activation: Activation::Linear,
    });
    let layer = network.emit(&name, dense, &[&layer])?;
    Ok(View::natural(layer, rank))
}

/// Returns a Flatten of our tensor as it lies, and the kernel with its rows in that order.
fn flattened(
    network: &mut Network,
    view: &View,
    kernel: Array2<f32>,
    name: &str,
) -> Result<(String, Array2<f32>), Refused> {
    let extents: Option<Vec<usize>> = (1..view.rank())
        .map(|axis| network.extent(view, axis))
        .collect();
    let extents = extents.ok_or_else(|| Refused::unsupported("flattens open extents"))?;
    let ours: Option<Vec<usize>> = network.shape(&view.layer).into_iter().collect();
    let ours = ours.ok_or_else(|| Refused::unsupported("flattens open extents"))?;
    // Distance of ONNX neighbours along each of our axes.
    let mut strides = vec![0; ours.len()];
    let mut stride = 1_usize;
    for (axis, extent) in extents.iter().enumerate().rev() {
        if let Some(our) = view.axes[axis + 1].and_then(|our| our.checked_sub(1)) {
            strides[our] = stride;
        }
        stride = stride.saturating_mul(*extent);
    }
    if stride != kernel.nrows() || ours.iter().product::<usize>() != stride {
        let rows = kernel.nrows();
        return Err(Refused::invalid(format!(
            "{rows} rows of weights for {stride} inputs"
        )));
    }
    let mut rows = vec![0_usize];
    for (extent, stride) in ours.iter().zip(&strides) {
        let bases = rows.iter();
        rows = bases
            .flat_map(|base| (0..*extent).map(move |i| base + i * stride))
            .collect();
    }
    let kernel = if rows.is_sorted() {
        kernel
    } else {
        kernel.select(ndarray::Axis(0), &rows)
    };
    if ours.len() == 1 {
        return Ok((view.layer.clone(), kernel));
    }
    let flat = network.emit(&format!("{name}_flatten"), Layer::Flatten, &[&view.layer])?;
    Ok((flat, kernel))
}
