//! Which instruction sets run, and what is refused.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use kernels::{Conv2d, ISA_VARIABLE, Isa, Kernels, Window};

/// Fails where a CPU's instruction set would silently go untested; all tests run over [`Kernels::available`].
///
/// `REQUIRE_ALL_ISAS` makes it fail on a machine that lacks a set, too.
#[test]
fn no_instruction_set_is_skipped() {
    let ran: Vec<&str> = Kernels::available()
        .map(|kernels| kernels.isa().name())
        .collect();
    let mut expected = vec!["portable"];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            expected.push("avx2");
        }
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq") {
            expected.push("avx512");
        }
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
            expected.push("vnni");
        }
    }
    assert_eq!(
        ran, expected,
        "the tests must run on every instruction set of this CPU"
    );
    if std::env::var_os("REQUIRE_ALL_ISAS").is_some() {
        assert_eq!(
            ran.len(),
            Isa::ALL.len(),
            "this CPU lacks an instruction set: {ran:?}"
        );
    }
}

/// Runs itself once per set, as the variable is read once per process.
#[test]
fn the_variable_chooses_the_instruction_set() {
    const CHILD: &str = "KERNELS_TEST_EXPECTED_ISA";
    if let Ok(expected) = std::env::var(CHILD) {
        assert_eq!(Isa::active().name(), expected);
        assert_eq!(Kernels::active().isa(), Isa::active());
        return;
    }
    let best = Isa::available()
        .last()
        .expect("portable is always there")
        .name();
    let cases = Isa::available()
        .map(|isa| (isa.name(), isa.name()))
        .chain([("no such set", best)]);
    for (forced, expected) in cases {
        let output = Command::new(std::env::current_exe().expect("a test knows its path"))
            .args([
                "--exact",
                "contract::the_variable_chooses_the_instruction_set",
            ])
            .env(ISA_VARIABLE, forced)
            .env(CHILD, expected)
            .output()
            .expect("the test can run itself");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{forced}: {text}"
        );
    }
}

/// Each refused operand differs from accepted ones in one thing.
#[test]
fn operands_that_disagree_are_refused() {
    let (x, kernel) = ([1.0_f32; 2 * 3 * 4], [1.0_f32; 4 * 5]);
    let conv = Conv2d {
        x: &x,
        kernel: &kernel,
        pad: None,
        window: Window::pointwise(2, 3),
        channels: 4,
        filters: 5,
    };
    assert!(is_accepted(&conv, 5, 0..2, 30), "the operands agree");
    assert!(is_accepted(&conv, 5, 1..1, 0), "no rows are rows too");
    assert!(!is_accepted(&conv, 4, 0..2, 30), "short bias");
    assert!(!is_accepted(&conv, 5, 0..3, 45), "a row too many");
    assert!(!is_accepted(&conv, 5, 0..2, 29), "short output");
    let (short_input, short_kernel) = (
        Conv2d { x: &x[1..], ..conv },
        Conv2d {
            kernel: &kernel[1..],
            ..conv
        },
    );
    assert!(!is_accepted(&short_input, 5, 0..2, 30), "short input");
    assert!(!is_accepted(&short_kernel, 5, 0..2, 30), "short kernel");
    let short_padding = Conv2d {
        pad: Some(&[0.0; 3]),
        ..conv
    };
    assert!(!is_accepted(&short_padding, 5, 0..2, 30), "short padding");
    let huge = Conv2d {
        channels: usize::MAX,
        ..conv
    };
    assert!(
        !is_accepted(&huge, 5, 0..2, 30),
        "the product of the extents overflows"
    );
    for change in [
        |w: &mut Window| w.stride_h = 0,
        |w: &mut Window| w.dilation_w = 0,
        |w: &mut Window| w.stride_w = usize::MAX >> 1,
        |w: &mut Window| w.dilation_h = usize::MAX,
        |w: &mut Window| w.pad_top = usize::MAX,
    ] {
        let mut refused = conv;
        change(&mut refused.window);
        assert!(!is_accepted(&refused, 5, 0..2, 30), "{:?}", refused.window);
    }
}

fn is_accepted(
    conv: &Conv2d<'_, f32, f32>,
    n_bias: usize,
    rows: Range<usize>,
    n_out: usize,
) -> bool {
    let (bias, mut out) = (vec![0.0; n_bias], vec![0.0; n_out]);
    catch_unwind(AssertUnwindSafe(|| {
        Kernels::active().conv2d_f32(conv, Some(&bias), rows, &mut out);
    }))
    .is_ok()
}
