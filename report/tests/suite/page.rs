//! The page as text.

use crate::{HOSTILE, full_page, hostile};

/// Returns the tags of a page, as they stand between `<` and `>`.
fn tags(page: &str) -> Vec<&str> {
    let starts = page.split('<').skip(1);
    starts.map(|rest| rest.split('>').next().unwrap()).collect()
}

#[test]
fn everything_is_on_the_page() {
    let page = full_page(str::to_owned);
    for said in [
        "Refuted: an input overflows a buffer",
        "QuantizedSeparableConv2D",
        "depthwise weights, float",
        "depthwise weights, integers",
        "outputs, float model",
        "outputs, integers",
        "output_quantizer.bitwidth",
        "comes from",
        "bias_add",
        "Confusion of the quantized model",
        "75.00 % (3)",
        "check --target one",
        "9 is not 3, 5 or 7",
        "Split the kernel.",
        "not checked",
        "a warning",
        "data:image/bmp;base64,Qk",
        "An input that overflows",
        "bitproof report",
        "SHA-256",
    ] {
        assert!(page.contains(said), "the page lacks: {said}");
    }
}

#[test]
fn names_of_a_hostile_file_stay_text() {
    let page = full_page(hostile);
    assert!(page.contains("&lt;script&gt;alert(1)"), "the name is there");
    assert!(!page.contains(HOSTILE), "as text");
    assert!(!page.contains('\u{202e}'), "text is not turned around");
    assert!(!page.contains(&"long".repeat(500)), "nor endless");
    for tag in tags(&page) {
        let element = tag.split([' ', '/']).find(|part| !part.is_empty());
        assert!(
            !matches!(element, Some("script" | "iframe" | "object")),
            "<{tag}>"
        );
        // Every second part is an attribute's value.
        let mut bare = tag.split('"').step_by(2);
        assert!(
            bare.all(|part| !part.contains(" on")),
            "an event of <{tag}>"
        );
    }
}

#[test]
fn nothing_is_asked_for_from_elsewhere() {
    let page = full_page(str::to_owned);
    let policy = "http-equiv=\"Content-Security-Policy\" content=\"default-src &#39;none&#39;";
    let policy = [policy.to_owned(), policy.replace("&#39;", "'")];
    assert!(
        policy.iter().any(|p| page.contains(p)),
        "a policy forbids it"
    );
    assert!(
        !page.contains("@import") && !page.contains("url(h"),
        "nor does the style"
    );
    for tag in tags(&page) {
        for attribute in ["src=\"", "href=\""] {
            let Some((_, value)) = tag.split_once(attribute) else {
                continue;
            };
            let inside = ["#", "data:,", "data:image/bmp;"];
            let is_inside = inside.iter().any(|start| value.starts_with(start));
            assert!(is_inside, "<{tag}>");
        }
    }
}

#[test]
fn every_link_has_its_place_and_every_place_one_name() {
    let page = full_page(hostile);
    let after = |attribute: &str| -> Vec<String> {
        let values = page.split(attribute).skip(1);
        values
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect()
    };
    let ids = after(" id=\"");
    for link in after("href=\"#") {
        let n_places = ids.iter().filter(|id| **id == link).count();
        assert_eq!(n_places, 1, "places called {link}");
    }
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    assert_eq!(full_page(str::to_owned), full_page(str::to_owned));
}
