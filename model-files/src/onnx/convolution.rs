//! Convolutions, pooling and padding.

use float_model::{
    Activation, Conv2D, Conv2DTranspose, DepthwiseConv2D, GlobalAveragePooling2D, Layer, Padding,
    Pads, Pool2D,
};
use ndarray::{Array1, Array4, s};
use quantizer_core::geometry::same_pads;

use super::call::Call;
use super::network::{Network, View};
use super::refused::Refused;

/// Most of a kernel's extents, strides, dilation and pads: beyond all networks, and no product of
/// two of them with an extent overflows.
const MAX_STEP: usize = 1 << 16;

/// Most rows or columns of zeros that are added to a kernel.
const MAX_WIDER: usize = 16;

/// Window, strides, dilation and pads of a node, rows and columns; those of a sequence have one row.
struct Window {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilation: [usize; 2],
    pads: Pads,
    /// `auto_pad` asks for as many outputs as strides.
    same_upper: bool,
}

impl Window {
    fn new(call: &Call<'_>, kernel: &[usize]) -> Result<Self, Refused> {
        let rank = kernel.len();
        if !(1..=2).contains(&rank) {
            return Err(Refused::unsupported(format!("a window of {rank} axes")));
        }
        let two = |v: &[usize], one| match v {
            [h, w] => [*h, *w],
            [w] => [one, *w],
            _ => [one, one],
        };
        let strides = call.extents("strides", rank, 1)?;
        let dilation = call.extents("dilations", rank, 1)?;
        let pads = call.extents("pads", 2 * rank, 0)?;
        for (what, values, least) in [
            ("kernel_shape", kernel, 1),
            ("strides", &strides, 1),
            ("dilations", &dilation, 1),
            ("pads", &pads, 0),
        ] {
            if values.iter().any(|v| !(least..=MAX_STEP).contains(v)) {
                return Err(Refused::unsupported(format!("{what} {values:?}")));
            }
        }
        let pads = match pads.as_slice() {
            [top, left, bottom, right] => [*top, *bottom, *left, *right],
            [left, right] => [0, 0, *left, *right],
            _ => [0; 4],
        };
        let auto_pad = call.text("auto_pad");
        if !matches!(auto_pad.as_str(), "" | "NOTSET" | "VALID" | "SAME_UPPER") {
            return Err(Refused::unsupported(format!("auto_pad {auto_pad}")));
        }
        let [top, bottom, left, right] = pads;
        Ok(Self {
            kernel: two(kernel, 1),
            strides: two(&strides, 1),
            dilation: two(&dilation, 1),
            pads: Pads {
                top,
                bottom,
                left,
                right,
            },
            same_upper: auto_pad == "SAME_UPPER",
        })
    }

    /// Returns the rule that gives these pads for an image of `extents`, `None` if there is none.
    fn padding(&self, extents: [Option<usize>; 2]) -> Option<Padding> {
        if self.same_upper {
            return Some(Padding::Same);
        }
        if self.pads == Pads::default() {
            return Some(Padding::Valid);
        }
        let pads = [
            (self.pads.top, self.pads.bottom),
            (self.pads.left, self.pads.right),
        ];
        let fits = (0..2).all(|axis| {
            let (k, s, d) = (self.kernel[axis], self.strides[axis], self.dilation[axis]);
            match extents[axis] {
                Some(n) => same_pads(n, k, s, d) == pads[axis],
                // With stride 1 the pads of 'same' depend on the kernel alone.
                None => s == 1 && same_pads(1 << 20, k, 1, d) == pads[axis],
            }
        });
        fits.then_some(Padding::Same)
    }

    /// Returns the extent of a wider kernel, odd if possible, and where this one lies in it, so that
    /// the pads of 'same' on `n` rows or columns let it begin where this one does.
    fn widening(&self, axis: usize, n: usize) -> Option<(usize, usize)> {
        let (k, s) = (self.kernel[axis], self.strides[axis]);
        let (before, after) = match axis {
            0 => (self.pads.top, self.pads.bottom),
            _ => (self.pads.left, self.pads.right),
        };
        let n_outputs = (n + before + after).checked_sub(k)?.checked_div(s)? + 1;
        if self.dilation != [1, 1] || n_outputs != n.div_ceil(s) {
            return None;
        }
        let placed = |wide: &usize| {
            let offset = same_pads(n, *wide, s, 1).0.checked_sub(before)?;
            (offset + k <= *wide).then_some((*wide, offset))
        };
        let widths = k..=k + (2 * s).min(MAX_WIDER);
        let odd = widths.clone().filter(|wide| wide.rem_euclid(2) == 1);
        odd.chain(widths).find_map(|wide| placed(&wide))
    }

    /// Returns whether the window is centred on every `strides`-th pixel of an image of `extents`.
    fn is_centred(&self, extents: [Option<usize>; 2]) -> bool {
        let pads = [
            (self.pads.top, self.pads.bottom),
            (self.pads.left, self.pads.right),
        ];
        (0..2).all(|axis| {
            let (k, s, (before, after)) = (self.kernel[axis], self.strides[axis], pads[axis]);
            let n_outputs = |n: usize| (n + before + after).checked_sub(k)?.checked_div(s);
            let covers = |n: usize| n_outputs(n) == Some(n.div_ceil(s) - 1);
            k == 2 * before + 1 && extents[axis].is_some_and(|n| n > 0 && covers(n))
        })
    }
}

/// Returns the height and width of an image layer.
fn extents(network: &Network, image: &str) -> [Option<usize>; 2] {
    let shape = network.shape(image);
    [0, 1].map(|axis| shape.get(axis).copied().flatten())
}

/// Returns the layer behind which a window has no border, and its border rule.
fn bordered(
    network: &mut Network,
    window: &Window,
    image: String,
    name: &str,
) -> Result<(String, Padding), Refused> {
    if let Some(padding) = window.padding(extents(network, &image)) {
        return Ok((image, padding));
    }
    let padded = network.emit(
        &format!("{name}_pad"),
        Layer::ZeroPadding2D(window.pads),
        &[&image],
    )?;
    Ok((padded, Padding::Valid))
}

/// Returns a kernel constant `[a, b, height, width]`, a sequence's as one of height 1.
fn kernel(network: &Network, call: &Call<'_>) -> Result<Array4<f32>, Refused> {
    let name = call
        .input(1)
        .ok_or_else(|| Refused::invalid("has no weights"))?;
    let constant = network.constant(name)?;
    let shape = match *constant.shape.as_slice() {
        [a, b, w] => (a, b, 1, w),
        [a, b, h, w] => (a, b, h, w),
        _ => {
            return Err(Refused::unsupported(format!(
                "weights of extents {:?}",
                constant.shape
            )));
        }
    };
    Array4::from_shape_vec(shape, constant.floats()).map_err(|e| Refused::invalid(e.to_string()))
}

fn bias(network: &Network, call: &Call<'_>) -> Result<Option<Array1<f32>>, Refused> {
    let constant = call
        .input(2)
        .map(|name| network.constant(name))
        .transpose()?;
    Ok(constant.map(|constant| Array1::from_vec(constant.floats())))
}

fn input<'a>(call: &Call<'a>) -> Result<&'a str, Refused> {
    call.input(0)
        .ok_or_else(|| Refused::invalid("has no input"))
}

/// `Conv`.
pub(super) fn conv(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    let (weights, bias) = (kernel(network, call)?, bias(network, call)?);
    let (filters, per_group, kh, kw) = weights.dim();
    let spatial = if view.rank() == 3 {
        vec![kw]
    } else {
        vec![kh, kw]
    };
    let window = Window::new(call, &spatial)?;
    let groups = usize::try_from(call.int("group", 1)).unwrap_or(0);
    let image = network.image(&view, &name)?;
    let wider = window
        .padding(extents(network, &image))
        .is_none()
        .then(|| widened(&window, extents(network, &image), &weights))
        .flatten();
    let (image, padding, weights) = match wider {
        Some(weights) => (image, Padding::Same, weights),
        None => {
            let (image, padding) = bordered(network, &window, image, &name)?;
            (image, padding, weights)
        }
    };
    let (_, _, kh, kw) = weights.dim();
    let (strides, dilation) = (window.strides, window.dilation);
    let is_depthwise = groups > 1 && per_group == 1 && filters.checked_rem(groups) == Some(0);
    let layer = if is_depthwise {
        let multiplier = filters.div_euclid(groups);
        let by_channel = Array4::from_shape_fn((kh, kw, groups, multiplier), |(h, w, c, m)| {
            weights[[c * multiplier + m, 0, h, w]]
        });
        Layer::DepthwiseConv2D(DepthwiseConv2D {
            kernel: by_channel,
            bias,
            strides,
            padding,
            dilation,
            activation: Activation::Linear,
        })
    } else {
        Layer::Conv2D(Conv2D {
            kernel: owned(weights.permuted_axes([2, 3, 1, 0])),
            bias,
            strides,
            padding,
            dilation,
            groups,
            activation: Activation::Linear,
            padding_value: None,
        })
    };
    let layer = network.emit(&name, layer, &[&image])?;
    Ok(View::image(layer, view.rank()))
}

/// Returns a kernel that computes the same with the pads of 'same', `None` if there is none: rows and
/// columns of zeros move its window to where `window` begins.
///
/// Frameworks without 'same' pad both sides at stride 2. A border as a layer of its own could not be
/// quantized.
fn widened(
    window: &Window,
    extents: [Option<usize>; 2],
    weights: &Array4<f32>,
) -> Option<Array4<f32>> {
    let (filters, channels, kh, kw) = weights.dim();
    let [top, left] = [0, 1].map(|axis| window.widening(axis, extents[axis]?));
    let ((height, top), (width, left)) = (top?, left?);
    let mut wide = Array4::zeros((filters, channels, height, width));
    wide.slice_mut(s![.., .., top..top + kh, left..left + kw])
        .assign(weights);
    Some(wide)
}

/// Returns the elements in row-major order.
fn owned(x: Array4<f32>) -> Array4<f32> {
    x.as_standard_layout().into_owned()
}

/// `ConvTranspose`.
pub(super) fn conv_transpose(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    let (weights, bias) = (kernel(network, call)?, bias(network, call)?);
    let (channels, per_group, kh, kw) = weights.dim();
    if call.ints("output_shape").is_some() {
        return Err(Refused::unsupported("output_shape"));
    }
    let is_sequence = view.rank() == 3;
    let spatial = if is_sequence { vec![kw] } else { vec![kh, kw] };
    let window = Window::new(call, &spatial)?;
    let mut extra = call.extents("output_padding", spatial.len(), 0)?;
    if is_sequence {
        extra.insert(0, 0);
    }
    let refused = || {
        Refused::unsupported(format!(
            "pads {:?} with output_padding {extra:?}",
            window.pads
        ))
    };
    let (padding, weights) = match transposed_padding(&window, &extra) {
        Some(padding) => (padding, weights),
        None => {
            let wide = widened_transposed(&window, &extra, &weights).ok_or_else(refused)?;
            (Padding::Same, wide)
        }
    };
    let groups = usize::try_from(call.int("group", 1)).unwrap_or(0);
    let image = network.image(&view, &name)?;
    let layer = match (groups, per_group) {
        (1, _) => Layer::Conv2DTranspose(Conv2DTranspose {
            kernel: owned(weights.permuted_axes([2, 3, 1, 0])),
            bias,
            strides: window.strides,
            padding,
            output_padding: None,
            dilation: [1, 1],
            activation: Activation::Linear,
        }),
        (groups, 1) if groups == channels => Layer::DepthwiseConv2DTranspose(DepthwiseConv2D {
            kernel: owned(weights.permuted_axes([2, 3, 0, 1])),
            bias,
            strides: window.strides,
            padding,
            dilation: [1, 1],
            activation: Activation::Linear,
        }),
        _ => return Err(Refused::unsupported(format!("group {groups}"))),
    };
    let layer = network.emit(&name, layer, &[&image])?;
    Ok(View::image(layer, view.rank()))
}

/// Returns a kernel with rows and columns of zeros, odd if possible, so that 'same' crops what
/// `window` crops; `None` if there is none.
fn widened_transposed(
    window: &Window,
    extra: &[usize],
    weights: &Array4<f32>,
) -> Option<Array4<f32>> {
    if window.dilation != [1, 1] || window.same_upper {
        return None;
    }
    let pads = [
        (window.pads.top, window.pads.bottom),
        (window.pads.left, window.pads.right),
    ];
    let side = |axis: usize| {
        let (k, s, (before, after)) = (window.kernel[axis], window.strides[axis], pads[axis]);
        if k + extra.get(axis)? != s + before + after {
            return None; // The output is not as long as the strides make it.
        }
        let placed = |wide: &usize| {
            let offset = (*wide - s).div_euclid(2).checked_sub(before)?;
            (offset + k <= *wide).then_some((*wide, offset))
        };
        let widths = k.max(s)..=k + 2 * s;
        let odd = widths.clone().filter(|wide| wide.rem_euclid(2) == 1);
        odd.chain(widths).find_map(|wide| placed(&wide))
    };
    let ((height, top), (width, left)) = (side(0)?, side(1)?);
    let (channels, filters, kh, kw) = weights.dim();
    let mut wide = Array4::zeros((channels, filters, height, width));
    wide.slice_mut(s![.., .., top..top + kh, left..left + kw])
        .assign(weights);
    Some(wide)
}

/// Returns Keras' rule for what a transposed convolution crops, `None` if none fits.
fn transposed_padding(window: &Window, extra: &[usize]) -> Option<Padding> {
    if window.dilation != [1, 1] || window.same_upper {
        return None;
    }
    let pads = [
        (window.pads.top, window.pads.bottom),
        (window.pads.left, window.pads.right),
    ];
    let each = |f: &dyn Fn(usize) -> bool| (0..2).all(f);
    let is_valid = each(&|axis| {
        let (k, s) = (window.kernel[axis], window.strides[axis]);
        // Keras' output is never shorter than the strides.
        pads[axis] == (0, 0) && extra[axis] == s.saturating_sub(k)
    });
    let is_same = each(&|axis| {
        let (k, s, (before, after)) = (window.kernel[axis], window.strides[axis], pads[axis]);
        k >= s && before == (k - s).div_euclid(2) && before + after == k - s + extra[axis]
    });
    match (is_valid, is_same) {
        (true, _) => Some(Padding::Valid),
        (false, true) => Some(Padding::Same),
        (false, false) => None,
    }
}

/// `MaxPool` and `AveragePool`.
pub(super) fn pool(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    let rank = view.rank().saturating_sub(2);
    let kernel = call.extents("kernel_shape", rank, 1)?;
    let mut window = Window::new(call, &kernel)?;
    if window.dilation != [1, 1] {
        return Err(Refused::unsupported(format!(
            "dilations {:?}",
            window.dilation
        )));
    }
    let image = network.image(&view, &name)?;
    let sizes = extents(network, &image);
    if call.int("ceil_mode", 0) != 0 {
        round_up(&mut window, sizes)?;
    }
    let is_max = call.node.op_type == "MaxPool";
    if !is_max && sizes == window.kernel.map(Some) && window.pads == Pads::default() {
        return global(network, &view, &name);
    }
    let counts_zeros = !is_max && call.int("count_include_pad", 0) != 0;
    let rule = window.padding(sizes);
    let (image, padding) = match rule {
        Some(padding) if padding == Padding::Valid || !counts_zeros => (image, padding),
        // The zeros of ONNX count; those behind an image that rounding up reads do not.
        _ if counts_zeros && !window.same_upper && call.int("ceil_mode", 0) == 0 => {
            let pads = Layer::ZeroPadding2D(window.pads);
            let padded = network.emit(&format!("{name}_pad"), pads, &[&image])?;
            (padded, Padding::Valid)
        }
        None if is_max && window.is_centred(sizes) => {
            let every = Pool2D {
                pool_size: window.kernel,
                strides: [1, 1],
                padding: Padding::Same,
            };
            window.kernel = [1, 1];
            let every = Layer::MaxPool2D(every);
            let image = network.emit(&format!("{name}_every_pixel"), every, &[&image])?;
            (image, Padding::Valid)
        }
        // Zeros never win over what a rectifier gives.
        None if is_max && is_rectified(network, &image) => {
            bordered(network, &window, image, &name)?
        }
        Some(_) => return Err(Refused::unsupported("count_include_pad")),
        None => return Err(Refused::unsupported(format!("pads {:?}", window.pads))),
    };
    let pool = Pool2D {
        pool_size: window.kernel,
        strides: window.strides,
        padding,
    };
    let layer = if is_max {
        Layer::MaxPool2D(pool)
    } else {
        Layer::AveragePool2D(pool)
    };
    let layer = network.emit(&name, layer, &[&image])?;
    Ok(View::image(layer, view.rank()))
}

/// Gives a window the pads at the end with which extents that are rounded down are those of `ceil_mode`.
///
/// ```text
/// ceil((n + before + after - kernel) / stride) + 1 outputs, without a last one that begins behind the image
/// ```
fn round_up(window: &mut Window, sizes: [Option<usize>; 2]) -> Result<(), Refused> {
    let Pads {
        top,
        bottom,
        left,
        right,
    } = &mut window.pads;
    for (axis, before, after) in [(0, *top, bottom), (1, *left, right)] {
        let (k, s) = (window.kernel[axis], window.strides[axis]);
        let room = sizes[axis].and_then(|n| Some((n, (n + before + *after).checked_sub(k)?)));
        let (n, room) = room.ok_or_else(|| Refused::unsupported("ceil_mode on open extents"))?;
        let last = room.div_ceil(s) * s;
        let last = if last >= n + before {
            last.saturating_sub(s)
        } else {
            last
        };
        *after = (last + k).saturating_sub(n + before);
    }
    Ok(())
}

fn is_rectified(network: &Network, layer: &str) -> bool {
    match network.layer(layer) {
        Some(Layer::ReLU(relu)) => relu.negative_slope == 0.0,
        _ => false,
    }
}

/// `GlobalAveragePool`, and means over height and width.
pub(super) fn global_average(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    global(network, &view, &name)
}

pub(super) fn global(network: &mut Network, view: &View, name: &str) -> Result<View, Refused> {
    let image = network.image(view, name)?;
    let pool = Layer::GlobalAveragePooling2D(GlobalAveragePooling2D { keepdims: false });
    let layer = network.emit(name, pool, &[&image])?;
    let mut axes = vec![Some(0), Some(1)];
    axes.resize(view.rank(), None);
    Ok(View { layer, axes })
}

/// `GlobalMaxPool`.
pub(super) fn global_max(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    let image = network.image(&view, &name)?;
    let [Some(h), Some(w)] = extents(network, &image) else {
        return Err(Refused::unsupported("an image of open extents"));
    };
    let pool = Pool2D {
        pool_size: [h, w],
        strides: [h, w],
        padding: Padding::Valid,
    };
    let layer = network.emit(&name, Layer::MaxPool2D(pool), &[&image])?;
    Ok(View::image(layer, view.rank()))
}

/// `Pad` of height and width with zeros.
pub(super) fn pad(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    let pads = match call.input(1) {
        Some(pads) => network.constant(pads)?.as_integers().map(<[i64]>::to_vec),
        None => call.ints("pads").map(<[i64]>::to_vec),
    };
    let pads = pads.ok_or_else(|| Refused::invalid("has no pads"))?;
    let value = match call.input(2) {
        Some(value) => network.constant(value)?.scalar().unwrap_or(f32::NAN),
        None => call.float("value", 0.0),
    };
    let mode = call.text("mode");
    let zero = value.abs().to_bits() == 0 && matches!(mode.as_str(), "" | "constant");
    let sizes: Option<Vec<usize>> = pads.iter().map(|n| usize::try_from(*n).ok()).collect();
    if let Some([0, 0, top, left, 0, 0, bottom, right]) = sizes.as_deref()
        && zero
        && view.axes == View::image(String::new(), 4).axes
    {
        let pads = Pads {
            top: *top,
            bottom: *bottom,
            left: *left,
            right: *right,
        };
        let image = network.image(&view, &name)?;
        let layer = network.emit(&name, Layer::ZeroPadding2D(pads), &[&image])?;
        return Ok(View::image(layer, 4));
    }
    Err(Refused::unsupported(format!(
        "mode `{mode}`, value {value}, pads {pads:?}"
    )))
}

/// `Resize` and `Upsample` by whole factors, nearest neighbour.
pub(super) fn up_sample(network: &mut Network, call: &Call<'_>) -> Result<View, Refused> {
    let name = call.layer_name();
    let view = network.view(input(call)?, &name)?;
    let place = if call.node.op_type == "Upsample" {
        1
    } else {
        2
    };
    let scales = call
        .input(place)
        .ok_or_else(|| Refused::unsupported("sizes"))?;
    let scales = network.constant(scales)?.floats();
    let mode = call.text("mode");
    let transform = call.text("coordinate_transformation_mode");
    let nearest = call.text("nearest_mode");
    let rule = match (place, transform.as_str(), nearest.as_str()) {
        (1, _, _) => ("asymmetric", "floor"),
        (_, "", nearest) => ("half_pixel", nearest),
        (_, transform, nearest) => (transform, nearest),
    };
    let is_nearest = matches!(mode.as_str(), "" | "nearest");
    let whole = |v: f32| {
        (1_u16..=64)
            .find(|n| f32::from(*n).to_bits() == v.to_bits())
            .map(usize::from)
    };
    if let [batch, channels, h, w] = scales.as_slice()
        && let (true, Some(1), Some(1)) = (is_nearest, whole(*batch), whole(*channels))
        && let (Some(h), Some(w)) = (whole(*h), whole(*w))
        && repeats(rule, h)
        && repeats(rule, w)
    {
        let image = network.image(&view, &name)?;
        let layer = network.emit(&name, Layer::UpSampling2D { size: [h, w] }, &[&image])?;
        return Ok(View::image(layer, 4));
    }
    Err(Refused::unsupported(format!(
        "mode `{mode}`, `{transform}`, `{nearest}`, scales {scales:?}"
    )))
}

/// Returns whether an enlargement by `factor` repeats every pixel `factor` times.
///
/// ```text
/// output q * factor + r comes from: asymmetric q + r / factor, half_pixel q + (r + 1/2) / factor - 1/2
/// ```
fn repeats((transform, nearest): (&str, &str), factor: usize) -> bool {
    match (transform, nearest) {
        ("asymmetric" | "half_pixel", _) if factor == 1 => true,
        ("asymmetric", "floor") => true,
        // A half is rounded down to q, more than a half is not.
        ("asymmetric", "" | "round_prefer_floor") => factor == 2,
        // Less than a half from q on both sides.
        ("half_pixel", "" | "round_prefer_floor" | "round_prefer_ceil") => true,
        _ => false,
    }
}
