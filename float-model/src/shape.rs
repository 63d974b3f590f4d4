//! Output extents of each layer.

use quantizer_core::geometry::{same_pads, transposed_extent, window_extent};

use crate::layer::{
    BufferTempConv, Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D, Pool2D, SeparableConv2D,
    StatefulProjection,
};
use crate::{GraphError, Layer, Padding, Pads};

/// Extents of one item (the batch axis is left out), `None` where a model leaves one open.
pub type Shape = Vec<Option<usize>>;

/// Largest extent of a tensor: beyond all networks, and small enough that no product of an extent
/// with a stride, a kernel or a factor overflows.
const MAX_EXTENT: usize = 1 << 30;

/// Most values of one item of a tensor, 1 GiB of float32: beyond all networks, and few enough that an
/// error comes before the memory is gone.
pub const MAX_ITEM_VALUES: usize = 1 << 28;

/// Most values of a batch, 8 GiB of float32.
pub const MAX_BATCH_VALUES: usize = 1 << 31;

/// Returns the output shape of the layer `name` for the shapes of its inputs.
///
/// # Errors
///
/// Inputs that the layer cannot take, weights that do not fit them, an extent beyond 2^30, or more
/// than [`MAX_ITEM_VALUES`].
pub fn infer_shape(name: &str, layer: &Layer, inputs: &[&Shape]) -> Result<Shape, GraphError> {
    let shape = inferred(name, layer, inputs)?;
    match shape.iter().flatten().find(|extent| **extent > MAX_EXTENT) {
        Some(extent) => Err(GraphError::invalid(name, format!("an extent of {extent}"))),
        None if n_known(&shape) > MAX_ITEM_VALUES => {
            let n = n_known(&shape);
            Err(GraphError::invalid(
                name,
                format!("an item of {n} values, which no memory is made for"),
            ))
        }
        None => Ok(shape),
    }
}

/// Returns the number of values of an item whose open extents are 1.
fn n_known(shape: &Shape) -> usize {
    let known = shape.iter().flatten();
    known.fold(1, |n: usize, extent| n.saturating_mul(*extent))
}

fn inferred(name: &str, layer: &Layer, inputs: &[&Shape]) -> Result<Shape, GraphError> {
    check_arity(name, layer, inputs.len())?;
    let first = inputs.first().copied();
    let x = || first.ok_or_else(|| GraphError::invalid(name, "has no input"));
    match layer {
        Layer::Input(input) => Ok(input.shape.clone()),
        Layer::Conv2D(conv) => conv2d(name, conv, x()?),
        Layer::DepthwiseConv2D(conv) => depthwise(name, conv, x()?),
        Layer::SeparableConv2D(conv) => separable(name, conv, x()?),
        Layer::Conv2DTranspose(conv) => transpose(name, conv, x()?),
        Layer::DepthwiseConv2DTranspose(conv) => depthwise_transpose(name, conv, x()?),
        Layer::Dense(dense) => dense_shape(name, dense, x()?),
        Layer::StatefulProjection(projection) => projection_shape(name, projection, x()?),
        Layer::BufferTempConv(conv) => frames_shape(name, conv, x()?),
        Layer::DepthwiseBufferTempConv(conv) => {
            let [_, _, c] = image(name, x()?)?;
            let (n_frames, channels) = conv.kernel.dim();
            if n_frames == 0 {
                return Err(GraphError::invalid(name, "a window of no frame"));
            }
            expect_channels(name, c, channels)?;
            expect_bias(name, conv.bias.as_ref().map(|b| b.len()), channels)?;
            Ok(x()?.clone())
        }
        Layer::StatefulRecurrent(recurrent) => {
            let [time, c] = steps(name, x()?)?;
            expect_channels(name, c, recurrent.a_real.len())?;
            expect_channels(name, c, recurrent.a_imag.len())?;
            Ok(vec![time, c, Some(2)])
        }
        Layer::BatchNormalization(norm) => {
            let axis = item_axis(name, norm.axis, x()?.len())?;
            expect_channels(name, x()?.get(axis).copied().flatten(), norm.mean.len())?;
            Ok(x()?.clone())
        }
        Layer::ReLU(_)
        | Layer::LeakyReLU { .. }
        | Layer::PReLU { .. }
        | Layer::Activation(_)
        | Layer::Softmax
        | Layer::Rescaling(_)
        | Layer::Dropout { .. } => Ok(x()?.clone()),
        Layer::MaxPool2D(pool) | Layer::AveragePool2D(pool) => pool2d(name, *pool, x()?),
        Layer::GlobalAveragePooling2D(gap) => {
            let [_, _, c] = image(name, x()?)?;
            Ok(if gap.keepdims {
                vec![Some(1), Some(1), c]
            } else {
                vec![c]
            })
        }
        Layer::Add(_) | Layer::Multiply | Layer::Subtract => broadcast(name, inputs),
        Layer::Concatenate { axis } => concatenate(name, *axis, inputs),
        Layer::Volume(volume) => volume.shape(name, x()?),
        Layer::ZeroPadding2D(pads) => zero_padding(name, *pads, x()?),
        Layer::UpSampling2D { size } => {
            let [h, w, c] = image(name, x()?)?;
            Ok(vec![times(h, size[0]), times(w, size[1]), c])
        }
        Layer::Flatten => Ok(vec![n_elements(x()?)]),
        Layer::Reshape { target_shape } => reshape(name, target_shape, x()?),
        Layer::Permute { dims } => permute(name, dims, x()?),
        Layer::ExtractToken { token, axis } => {
            let index = item_axis(name, *axis, x()?.len())?;
            let mut shape = x()?.clone();
            match shape.remove(index) {
                Some(n) if *token >= n => {
                    Err(GraphError::invalid(name, format!("token {token} of {n}")))
                }
                _ => Ok(shape),
            }
        }
    }
}

/// Returns the number of elements of an item, the largest number if there are more.
fn n_elements(shape: &Shape) -> Option<usize> {
    shape
        .iter()
        .copied()
        .try_fold(1_usize, |n, extent| extent.map(|e| n.saturating_mul(e)))
}

/// Returns a multiple of an extent, the largest number if it is beyond.
fn times(extent: Option<usize>, factor: usize) -> Option<usize> {
    extent.map(|n| n.saturating_mul(factor))
}

/// Returns the axis of an item for an axis counted with the batch axis.
///
/// # Errors
///
/// The item has no such axis.
pub fn item_axis(name: &str, axis: isize, rank: usize) -> Result<usize, GraphError> {
    let with_batch = rank.checked_add_signed(1).unwrap_or(rank);
    let index = if axis < 0 {
        with_batch.checked_add_signed(axis)
    } else {
        usize::try_from(axis).ok()
    };
    index
        .and_then(|index| index.checked_sub(1))
        .filter(|index| *index < rank)
        .ok_or_else(|| GraphError::invalid(name, format!("axis {axis} of a rank {rank} item")))
}

fn check_arity(name: &str, layer: &Layer, n_inputs: usize) -> Result<(), GraphError> {
    let fits = match layer {
        Layer::Input(_) => n_inputs == 0,
        Layer::Add(_) | Layer::Multiply | Layer::Concatenate { .. } => n_inputs >= 2,
        Layer::Subtract => n_inputs == 2,
        Layer::Conv2D(_)
        | Layer::DepthwiseConv2D(_)
        | Layer::SeparableConv2D(_)
        | Layer::Conv2DTranspose(_)
        | Layer::DepthwiseConv2DTranspose(_)
        | Layer::Dense(_)
        | Layer::StatefulProjection(_)
        | Layer::BufferTempConv(_)
        | Layer::DepthwiseBufferTempConv(_)
        | Layer::StatefulRecurrent(_)
        | Layer::BatchNormalization(_)
        | Layer::ReLU(_)
        | Layer::LeakyReLU { .. }
        | Layer::PReLU { .. }
        | Layer::Activation(_)
        | Layer::Softmax
        | Layer::MaxPool2D(_)
        | Layer::AveragePool2D(_)
        | Layer::GlobalAveragePooling2D(_)
        | Layer::Rescaling(_)
        | Layer::ZeroPadding2D(_)
        | Layer::Volume(_)
        | Layer::UpSampling2D { .. }
        | Layer::Flatten
        | Layer::Reshape { .. }
        | Layer::Permute { .. }
        | Layer::ExtractToken { .. }
        | Layer::Dropout { .. } => n_inputs == 1,
    };
    if fits {
        return Ok(());
    }
    let class = layer.class_name();
    Err(GraphError::invalid(
        name,
        format!("{class} cannot take {n_inputs} inputs"),
    ))
}

fn image(name: &str, shape: &Shape) -> Result<[Option<usize>; 3], GraphError> {
    <[Option<usize>; 3]>::try_from(shape.as_slice()).map_err(|_| {
        let rank = shape.len();
        GraphError::invalid(
            name,
            format!("expects [height, width, channels], not rank {rank}"),
        )
    })
}

fn expect_channels(name: &str, got: Option<usize>, want: usize) -> Result<(), GraphError> {
    match got {
        Some(got) if got != want => Err(GraphError::invalid(
            name,
            format!("has weights for {want} channels, input {got}"),
        )),
        _ => Ok(()),
    }
}

fn expect_bias(name: &str, bias: Option<usize>, want: usize) -> Result<(), GraphError> {
    match bias {
        Some(got) if got != want => Err(GraphError::invalid(
            name,
            format!("bias has {got} entries, expected {want}"),
        )),
        _ => Ok(()),
    }
}

struct Window2 {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilation: [usize; 2],
    padding: Padding,
}

fn window2(
    name: &str,
    hw: [Option<usize>; 2],
    window: &Window2,
) -> Result<[Option<usize>; 2], GraphError> {
    let mut out = [None; 2];
    for axis in 0..2 {
        let (kernel, stride) = (window.kernel[axis], window.strides[axis]);
        let dilation = window.dilation[axis];
        expect_steps(name, [kernel, stride, dilation])?;
        let Some(n) = hw[axis] else { continue };
        let extent = window_extent(n, kernel, stride, dilation, window.padding);
        out[axis] = Some(extent.filter(|extent| *extent > 0).ok_or_else(|| {
            GraphError::invalid(
                name,
                format!("a window of {kernel} does not fit an extent of {n}"),
            )
        })?);
    }
    Ok(out)
}

/// Kernel, strides and dilation are positive, and small enough that no position overflows.
fn expect_steps<const N: usize>(name: &str, steps: [usize; N]) -> Result<(), GraphError> {
    if steps.iter().all(|n| (1..=MAX_EXTENT).contains(n)) {
        return Ok(());
    }
    Err(GraphError::invalid(
        name,
        "kernel, strides and dilation must be positive, and at most 2^30",
    ))
}

fn conv2d(name: &str, conv: &Conv2D, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    let (kh, kw, per_group, filters) = conv.kernel.dim();
    if conv.groups == 0 || filters.checked_rem(conv.groups) != Some(0) {
        let groups = conv.groups;
        return Err(GraphError::invalid(
            name,
            format!("{filters} filters in {groups} groups"),
        ));
    }
    expect_channels(name, c, per_group * conv.groups)?;
    expect_bias(name, conv.bias.as_ref().map(|b| b.len()), filters)?;
    if let Some(value) = &conv.padding_value {
        let n_values = value.len();
        if n_values != 1 && c.is_some_and(|c| c != n_values) {
            return Err(GraphError::invalid(
                name,
                format!("has {n_values} padding values"),
            ));
        }
    }
    // The border of a padded convolution is made without dilation, then only windows inside count.
    let (h, w) = if conv.padding_value.is_some() {
        let cover = |n: Option<usize>, kernel, stride: usize| {
            let pads = n
                .filter(|_| stride > 0)
                .map(|n| same_pads(n, kernel, stride, 1));
            n.zip(pads).map(|(n, (before, after))| n + before + after)
        };
        (cover(h, kh, conv.strides[0]), cover(w, kw, conv.strides[1]))
    } else {
        (h, w)
    };
    let padding = if conv.padding_value.is_some() {
        Padding::Valid
    } else {
        conv.padding
    };
    let window = Window2 {
        kernel: [kh, kw],
        strides: conv.strides,
        dilation: conv.dilation,
        padding,
    };
    let [h, w] = window2(name, [h, w], &window)?;
    Ok(vec![h, w, Some(filters)])
}

fn depthwise(name: &str, conv: &DepthwiseConv2D, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    let (kh, kw, channels, multiplier) = conv.kernel.dim();
    expect_channels(name, c, channels)?;
    expect_bias(
        name,
        conv.bias.as_ref().map(|b| b.len()),
        channels * multiplier,
    )?;
    let window = Window2 {
        kernel: [kh, kw],
        strides: conv.strides,
        dilation: conv.dilation,
        padding: conv.padding,
    };
    let [h, w] = window2(name, [h, w], &window)?;
    Ok(vec![h, w, Some(channels * multiplier)])
}

fn separable(name: &str, conv: &SeparableConv2D, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    let (kh, kw, channels, multiplier) = conv.depthwise_kernel.dim();
    let (ph, pw, inner, filters) = conv.pointwise_kernel.dim();
    expect_channels(name, c, channels)?;
    if (ph, pw) != (1, 1) || inner != channels * multiplier {
        return Err(GraphError::invalid(
            name,
            format!("pointwise kernel [{ph}, {pw}, {inner}, {filters}] after {channels} channels"),
        ));
    }
    expect_bias(name, conv.bias.as_ref().map(|b| b.len()), filters)?;
    let window = Window2 {
        kernel: [kh, kw],
        strides: conv.strides,
        dilation: conv.dilation,
        padding: conv.padding,
    };
    let [h, w] = window2(name, [h, w], &window)?;
    Ok(vec![h, w, Some(filters)])
}

fn transpose(name: &str, conv: &Conv2DTranspose, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    let (kh, kw, filters, channels) = conv.kernel.dim();
    expect_channels(name, c, channels)?;
    expect_bias(name, conv.bias.as_ref().map(|b| b.len()), filters)?;
    if conv.dilation != [1, 1] {
        return Err(GraphError::unsupported(
            name,
            "a dilated transposed convolution",
        ));
    }
    expect_steps(name, [kh, kw, conv.strides[0], conv.strides[1]])?;
    let extent = |n: Option<usize>, k, axis: usize| {
        let extra = conv.output_padding.map(|p| p[axis]);
        n.map(|n| transposed_extent(n, k, conv.strides[axis], conv.padding, extra))
            .map_or(Ok(None), |out| {
                out.map(Some)
                    .ok_or_else(|| GraphError::invalid(name, "has no output"))
            })
    };
    Ok(vec![extent(h, kh, 0)?, extent(w, kw, 1)?, Some(filters)])
}

fn depthwise_transpose(name: &str, conv: &DepthwiseConv2D, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    let (_, _, channels, multiplier) = conv.kernel.dim();
    expect_channels(name, c, channels)?;
    expect_bias(name, conv.bias.as_ref().map(|b| b.len()), channels)?;
    if multiplier != 1 || conv.dilation != [1, 1] || conv.padding != Padding::Same {
        return Err(GraphError::unsupported(
            name,
            "only multiplier 1, dilation 1, 'same'",
        ));
    }
    let [sh, sw] = conv.strides;
    expect_steps(name, [sh, sw])?;
    Ok(vec![times(h, sh), times(w, sw), Some(channels)])
}

fn dense_shape(name: &str, dense: &Dense, x: &Shape) -> Result<Shape, GraphError> {
    let (channels, units) = dense.kernel.dim();
    let Some((last, leading)) = x.split_last() else {
        return Err(GraphError::invalid(
            name,
            "expects at least one axis beside the batch",
        ));
    };
    expect_channels(name, *last, channels)?;
    expect_bias(name, dense.bias.as_ref().map(|b| b.len()), units)?;
    Ok(leading.iter().copied().chain([Some(units)]).collect())
}

fn projection_shape(
    name: &str,
    projection: &StatefulProjection,
    x: &Shape,
) -> Result<Shape, GraphError> {
    let [time, channels] = steps(name, x)?;
    let group = projection.subsample;
    if time.is_some_and(|n| n.checked_rem(group) != Some(0)) {
        let message = format!("{time:?} time steps in groups of {group}");
        return Err(GraphError::invalid(name, message));
    }
    let time = time.and_then(|n| n.checked_div(group));
    dense_shape(name, &projection.dense, &vec![time, channels])
}

fn frames_shape(name: &str, conv: &BufferTempConv, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    let (kh, kw, rows, filters) = conv.kernel.dim();
    if (kh, kw) != (1, 1) || rows.checked_rem(conv.n_frames) != Some(0) {
        let message = format!(
            "a kernel of {kh} x {kw} x {rows} for {} frames",
            conv.n_frames
        );
        return Err(GraphError::invalid(name, message));
    }
    expect_channels(name, c, rows.div_euclid(conv.n_frames))?;
    expect_bias(name, conv.bias.as_ref().map(|b| b.len()), filters)?;
    Ok(vec![h, w, Some(filters)])
}

/// Returns time steps and channels.
fn steps(name: &str, shape: &Shape) -> Result<[Option<usize>; 2], GraphError> {
    <[Option<usize>; 2]>::try_from(shape.as_slice()).map_err(|_| {
        let rank = shape.len();
        GraphError::invalid(name, format!("expects [time, channels], not rank {rank}"))
    })
}

fn pool2d(name: &str, pool: Pool2D, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    let window = Window2 {
        kernel: pool.pool_size,
        strides: pool.strides,
        dilation: [1, 1],
        padding: pool.padding,
    };
    let [h, w] = window2(name, [h, w], &window)?;
    Ok(vec![h, w, c])
}

fn broadcast(name: &str, inputs: &[&Shape]) -> Result<Shape, GraphError> {
    let mut shape = inputs[0].clone();
    for other in &inputs[1..] {
        if other.len() != shape.len() {
            return Err(GraphError::invalid(name, "inputs have different ranks"));
        }
        for (a, b) in shape.iter_mut().zip(other.iter()) {
            *a = match (*a, *b) {
                (Some(1), b) => b,
                (a, Some(1)) => a,
                (Some(a), Some(b)) if a != b => {
                    return Err(GraphError::invalid(
                        name,
                        format!("extents {a} and {b} differ"),
                    ));
                }
                (a, b) => a.or(b),
            };
        }
    }
    Ok(shape)
}

fn concatenate(name: &str, axis: isize, inputs: &[&Shape]) -> Result<Shape, GraphError> {
    let mut shape = inputs[0].clone();
    let axis = item_axis(name, axis, shape.len())?;
    for other in &inputs[1..] {
        let fits = other.len() == shape.len()
            && (0..shape.len()).all(|i| i == axis || shape[i] == other[i]);
        if !fits {
            return Err(GraphError::invalid(
                name,
                "inputs differ beside the concatenated axis",
            ));
        }
        shape[axis] = shape[axis].zip(other[axis]).map(|(a, b)| a + b);
    }
    Ok(shape)
}

fn zero_padding(name: &str, pads: Pads, x: &Shape) -> Result<Shape, GraphError> {
    let [h, w, c] = image(name, x)?;
    Ok(vec![
        h.map(|h| h.saturating_add(pads.top).saturating_add(pads.bottom)),
        w.map(|w| w.saturating_add(pads.left).saturating_add(pads.right)),
        c,
    ])
}

fn reshape(name: &str, target: &[isize], x: &Shape) -> Result<Shape, GraphError> {
    let total = n_elements(x);
    let open = target.iter().filter(|d| **d == -1).count();
    let known = target
        .iter()
        .filter(|d| **d != -1)
        .try_fold(1usize, |p, d| {
            usize::try_from(*d).ok().and_then(|d| p.checked_mul(d))
        });
    let (Some(known), true) = (known, open <= 1) else {
        return Err(GraphError::invalid(
            name,
            format!("target shape {target:?}"),
        ));
    };
    let rest = match total {
        Some(total) if open == 1 && known > 0 && total.checked_rem(known) == Some(0) => {
            Some(total.div_euclid(known))
        }
        Some(total) if open == 0 && total == known => Some(1),
        None => None,
        Some(total) => {
            return Err(GraphError::invalid(
                name,
                format!("{total} elements as {target:?}"),
            ));
        }
    };
    Ok(target
        .iter()
        .map(|d| usize::try_from(*d).ok().or(rest.filter(|_| *d == -1)))
        .collect())
}

fn permute(name: &str, dims: &[usize], x: &Shape) -> Result<Shape, GraphError> {
    let mut sorted = dims.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(1..=x.len()) {
        return Err(GraphError::invalid(
            name,
            format!("dims {dims:?} of a rank {} item", x.len()),
        ));
    }
    Ok(dims.iter().map(|d| x[d - 1]).collect())
}
