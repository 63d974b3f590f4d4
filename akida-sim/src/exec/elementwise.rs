//! Layers without weights.

use kernels::{Activation, Kernels, MaxPool, Window};
use quantizer_core::geometry::{Padding, same_pads, window_extent};
use quantizer_core::layers::{ConcatAxis, IntegerLayer, IntegerOp, PoolOp};
use quantizer_core::{Counters, PerAxis, Stage, ValueBits};
use std::sync::OnceLock;

use super::entry::{entered_values, storage_of};
use super::epilogue::{Epilogue, Tally};
use super::linear::State;
use super::room::Room;
use super::sequence;
use super::tasks::{CHUNK, in_parallel, mapped};
use super::tensor::{Int, Storage, Tensor, Values, batch_shape, with_ints, with_storage};
use crate::ModelError;
use crate::model::QuantizedNode;

/// Returns the output of a layer without weights.
pub(super) fn run(
    (node, layer): (&QuantizedNode, &IntegerLayer),
    inputs: &[&Tensor],
    (out, epilogue): (Storage, &OnceLock<Epilogue>),
    state: State<'_>,
) -> Result<Tensor, ModelError> {
    let State {
        memory,
        counters,
        room,
    } = state;
    let mut end = End {
        out,
        epilogue,
        counters,
        room,
    };
    let (name, shape) = (node.name.as_str(), &node.shape);
    let first = *inputs
        .first()
        .ok_or_else(|| ModelError::invalid(name, "has no input"))?;
    let entry = layer.entries.first();
    let entry = entry.ok_or_else(|| ModelError::invalid(name, "has no entry stage"))?;
    match &layer.op {
        IntegerOp::ReLU { max } => Ok(relu(layer, max.as_ref(), first, &mut end)),
        IntegerOp::LookUp { table } => look_up(name, layer, table, first, &mut end),
        IntegerOp::MaxPool2D(pool) => max_pool(name, *pool, first),
        IntegerOp::GlobalAveragePooling2D { keepdims } => {
            let x = entered_values(name, entry, first, wide(entry.is_identity()), end.counters)?;
            sum_pixels(name, layer, &x, *keepdims, &mut end)
        }
        IntegerOp::Add => {
            let second = inputs.get(1).zip(layer.entries.get(1));
            let (second, second_entry) =
                second.ok_or_else(|| ModelError::invalid(name, "takes two inputs"))?;
            let a = entered_values(name, entry, first, Some(Storage::I64), end.counters)?;
            let b = entered_values(name, second_entry, second, Some(Storage::I64), end.counters)?;
            add(name, layer, [&a, &b], &mut end)
        }
        IntegerOp::Concatenate(ConcatAxis::Channels) => concatenate(name, inputs, out),
        IntegerOp::Flatten | IntegerOp::Reshape { .. } => {
            let storage = (!entry.is_identity()).then_some(out);
            let x = entered_values(name, entry, first, storage, end.counters)?.into_owned();
            let shape = batch_shape(x.batch(), shape).unwrap_or_else(|| {
                let batch = x.batch();
                vec![batch, x.n_values().checked_div(batch).unwrap_or(0)]
            });
            if shape.iter().product::<usize>() != x.n_values() {
                let from = x.shape;
                return Err(ModelError::invalid(
                    name,
                    format!("{from:?} elements as {shape:?}"),
                ));
            }
            Ok(Tensor {
                shape,
                values: x.values,
            })
        }
        IntegerOp::Identity => Ok(first.clone()),
        IntegerOp::Concatenate(ConcatAxis::Leading(_))
        | IntegerOp::Permute { .. }
        | IntegerOp::ExtractToken { .. }
        | IntegerOp::DepthwiseBufferTempConv { .. }
        | IntegerOp::StatefulRecurrent(_) => {
            sequence::run_scalar(name, layer, inputs, out, (memory, end.counters))
        }
        IntegerOp::Conv2D(_)
        | IntegerOp::DepthwiseConv2D(_)
        | IntegerOp::SeparableConv2D { .. }
        | IntegerOp::Conv2DTranspose(_)
        | IntegerOp::DepthwiseConv2DTranspose(_)
        | IntegerOp::Dense { .. }
        | IntegerOp::StatefulProjection { .. }
        | IntegerOp::BufferTempConv { .. } => {
            Err(ModelError::invalid(name, "has weights but no plan"))
        }
    }
}

/// How a layer ends.
struct End<'a> {
    /// Type of its results.
    out: Storage,
    epilogue: &'a OnceLock<Epilogue>,
    counters: &'a mut Counters,
    room: &'a mut Room,
}

impl End<'_> {
    /// Returns the results of the last steps for `x`, `[pixels, channels]`.
    ///
    /// `epilogue` makes the steps: the first time, or where the number of channels is another than then.
    fn values<X: Int>(
        &mut self,
        x: &[X],
        n_channels: usize,
        epilogue: impl Fn() -> Epilogue,
    ) -> Values {
        let kept = self.epilogue.get_or_init(&epilogue);
        let other = (kept.channels() != n_channels).then(epilogue);
        let epilogue = other.as_ref().unwrap_or(kept);
        let mut tally = Tally::default();
        let values = with_storage!(self.out, O => {
            narrowed::<_, O>(x, (n_channels, epilogue), &mut tally, self.room)
        });
        epilogue.count(&tally, self.counters);
        values
    }
}

fn wide(is_identity: bool) -> Option<Storage> {
    (!is_identity).then_some(Storage::I64)
}

fn relu(layer: &IntegerLayer, max: Option<&PerAxis<i64>>, x: &Tensor, end: &mut End<'_>) -> Tensor {
    let n_channels = x.shape.last().copied().unwrap_or(1).max(1);
    let largest = largest(layer.inner.value_bits);
    let epilogue = || Epilogue::rectifier(layer, rectifier_tops(max, n_channels), largest);
    let values = with_ints!(&x.values,
        v => end.values(v, n_channels, epilogue),
        float => Values::F32(Vec::new()));
    Tensor {
        shape: x.shape.clone(),
        values,
    }
}

fn look_up(
    name: &str,
    layer: &IntegerLayer,
    table: &[i32],
    x: &Tensor,
    end: &mut End<'_>,
) -> Result<Tensor, ModelError> {
    let n_channels = x.shape.last().copied().unwrap_or(1).max(1);
    let epilogue = || Epilogue::new(layer, None, n_channels, largest(layer.inner.value_bits));
    let half = i64::try_from(table.len().div_euclid(2)).unwrap_or(0);
    // Static bounds keep inputs within the table: their width is that of the entry stage.
    let entry = |v: i64| {
        let index = usize::try_from(v + half).unwrap_or(0);
        table.get(index).copied().unwrap_or(0)
    };
    let entries: Vec<i32> = with_ints!(&x.values,
        v => mapped(v, |_, v| entry(v.wide())),
        float => return Err(ModelError::invalid(name, "takes integers, not floats")));
    Ok(Tensor {
        shape: x.shape.clone(),
        values: end.values(&entries, n_channels, epilogue),
    })
}

/// Returns the upper ends of a rectifier, `i64::MAX` without one.
pub(super) fn rectifier_tops(max: Option<&PerAxis<i64>>, n_channels: usize) -> Vec<i64> {
    let top = |c: usize| max.map_or(i64::MAX, |max| max.at(c));
    (0..n_channels).map(top).collect()
}

/// Returns a bound of the magnitudes of `bits` value bits.
const fn largest(bits: ValueBits) -> u64 {
    1 << bits.bits()
}

/// Returns what the epilogue makes of each value.
fn narrowed<X: Int, O: Int>(
    x: &[X],
    (n_channels, epilogue): (usize, &Epilogue),
    tally: &mut Tally,
    room: &mut Room,
) -> Values {
    let mut out = room.take::<O>(x.len());
    let chunk = CHUNK.div_ceil(n_channels) * n_channels;
    let chunks = out.chunks_mut(chunk).zip(x.chunks(chunk));
    let tallies = in_parallel(chunks, &|(out, x): (&mut [O], &[X])| {
        let mut tally = Tally::default();
        epilogue.run(x, out, &mut tally);
        tally
    });
    tallies.iter().for_each(|other| tally.merge(other));
    O::values(out)
}

fn max_pool(name: &str, pool: PoolOp, x: &Tensor) -> Result<Tensor, ModelError> {
    let misfit = || ModelError::invalid(name, format!("cannot pool a tensor {:?}", x.shape));
    let &[batch, in_h, in_w, channels] = x.shape.as_slice() else {
        return Err(misfit());
    };
    let (out_h, pad_top) = pool_axis(in_h, pool, 0).ok_or_else(misfit)?;
    let (out_w, pad_left) = pool_axis(in_w, pool, 1).ok_or_else(misfit)?;
    let window = Window {
        in_h,
        in_w,
        out_h,
        out_w,
        kernel_h: pool.pool_size[0],
        kernel_w: pool.pool_size[1],
        stride_h: pool.strides[0],
        stride_w: pool.strides[1],
        dilation_h: 1,
        dilation_w: 1,
        pad_top,
        pad_left,
    };
    let values = with_ints!(&x.values, v => pooled(v, window, channels), float => {
        return Err(ModelError::invalid(name, "takes integers, not floats"));
    });
    Ok(Tensor {
        shape: vec![batch, out_h, out_w, channels],
        values,
    })
}

fn pooled<X: Int + kernels::Activation>(x: &[X], window: Window, channels: usize) -> Values {
    let in_len = (window.in_h * window.in_w * channels).max(1);
    let out_len = window.out_h * window.out_w * channels;
    let n_images = x.len().div_euclid(in_len);
    let mut out = vec![X::narrow(0); n_images * out_len];
    let images = out.chunks_mut(out_len.max(1)).zip(x.chunks(in_len));
    in_parallel(images, &|(out, x): (&mut [X], &[X])| {
        let pool = MaxPool {
            x,
            window,
            channels,
        };
        Kernels::active().max_pool_int(&pool, 0..window.out_h, out);
    });
    X::values(out.into())
}

fn pool_axis(n: usize, pool: PoolOp, axis: usize) -> Option<(usize, usize)> {
    let (size, stride) = (pool.pool_size[axis], pool.strides[axis]);
    let out = window_extent(n, size, stride, 1, pool.padding)?;
    let before = match pool.padding {
        Padding::Same => same_pads(n, size, stride, 1).0,
        Padding::Valid => 0,
    };
    Some((out, before))
}

fn sum_pixels(
    name: &str,
    layer: &IntegerLayer,
    x: &Tensor,
    keepdims: bool,
    end: &mut End<'_>,
) -> Result<Tensor, ModelError> {
    let &[batch, h, w, channels] = x.shape.as_slice() else {
        return Err(ModelError::invalid(
            name,
            format!("cannot average a tensor {:?}", x.shape),
        ));
    };
    let mut sums = vec![0i64; batch * channels];
    let image = (h * w * channels).max(1);
    with_ints!(&x.values, v => {
        let images = sums.chunks_mut(channels.max(1)).zip(v.chunks(image));
        in_parallel(images, &|(sums, image): (&mut [i64], &[_])| {
            Kernels::active().sum_pixels(image, sums);
        });
    }, float => return Err(ModelError::invalid(name, "takes integers, not floats")));
    // Sums of a pool may need all of an i64; the epilogue saturates them first.
    let n_channels = channels.max(1);
    let values = end.values(&sums, n_channels, || {
        Epilogue::new(layer, Some(Stage::PoolSum), n_channels, u64::MAX)
    });
    let shape = if keepdims {
        vec![batch, 1, 1, channels]
    } else {
        vec![batch, channels]
    };
    Ok(Tensor { shape, values })
}

fn add(
    name: &str,
    layer: &IntegerLayer,
    [a, b]: [&Tensor; 2],
    end: &mut End<'_>,
) -> Result<Tensor, ModelError> {
    let (Values::I64(x), Values::I64(y)) = (&a.values, &b.values) else {
        return Err(ModelError::invalid(name, "takes integers, not floats"));
    };
    if a.shape != b.shape {
        let message = format!("adds tensors of shapes {:?} and {:?}", a.shape, b.shape);
        return Err(ModelError::invalid(name, message));
    }
    let mut sums = x.to_vec();
    let chunks = sums.chunks_mut(CHUNK).zip(y.chunks(CHUNK));
    in_parallel(chunks, &|(sums, y): (&mut [i64], &[i64])| {
        sums.iter_mut().zip(y).for_each(|(sum, y)| *sum += y);
    });
    let n_channels = a.shape.last().copied().unwrap_or(1).max(1);
    Ok(Tensor {
        shape: a.shape.clone(),
        values: end.values(&sums, n_channels, || {
            Epilogue::new(layer, Some(Stage::Sum), n_channels, u64::MAX)
        }),
    })
}

fn concatenate(name: &str, inputs: &[&Tensor], out: Storage) -> Result<Tensor, ModelError> {
    let leading = |x: &Tensor| x.shape.split_last().map(|(_, leading)| leading.to_vec());
    let first = leading(inputs[0]);
    let Some(leading) = first.filter(|f| inputs.iter().all(|x| leading(x).as_ref() == Some(f)))
    else {
        return Err(ModelError::invalid(
            name,
            "concatenates tensors of different extents",
        ));
    };
    let n_pixels: usize = leading.iter().product();
    let channels: Vec<usize> = inputs
        .iter()
        .map(|x| x.shape.last().copied().unwrap_or(0))
        .collect();
    let total: usize = channels.iter().sum();
    for x in inputs {
        storage_of(name, x)?;
    }
    let values = with_storage!(out, O => {
        let mut all = Vec::with_capacity(n_pixels * total);
        for pixel in 0..n_pixels {
            for (x, c) in inputs.iter().zip(&channels) {
                with_ints!(&x.values,
                    v => all.extend(v[pixel * c..(pixel + 1) * c].iter().map(|v| O::narrow(v.wide()))),
                    float => ());
            }
        }
        O::values(all.into())
    });
    let shape = leading.into_iter().chain([total]).collect();
    Ok(Tensor { shape, values })
}
