//! The page in headless Chromium, where there is one.
//!
//! `BITPROOF_BROWSER` names it if it is not called as usual; with `BITPROOF_SHOTS`, a folder, the
//! page is also drawn there: 360 and 1280 pixels wide, light and dark.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{full_page, hostile};

/// Looks at the page in a frame and says what is wrong with it, a line each.
const WATCHER: &str = r#"<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="frame" src="PAGE" style="border:0;width:WIDTHpx;height:HEIGHTpx"></iframe><pre id="said">not run</pre><script>
frame.onload = () => {
  const page = frame.contentDocument, seen = frame.contentWindow, wrong = [];
  const look = (state) => {
    const root = page.documentElement;
    if (root.scrollWidth > root.clientWidth) {
      const wide = [...page.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1
        && !e.parentElement.closest('.scroll'));
      wrong.push(state + ': scrolls to ' + root.scrollWidth + ': ' + wide.slice(0, 5).map(e => e.tagName + '.' + e.className));
    }
    for (const e of page.querySelectorAll('*')) {
      const scrolls = e.scrollWidth > e.clientWidth && ['auto', 'scroll'].includes(seen.getComputedStyle(e).overflowX);
      if (scrolls && e.tabIndex < 0 && !e.querySelector('a[href]')) wrong.push(state + ': no key scrolls ' + e.outerHTML.slice(0, 80));
    }
  };
  look('closed');
  page.querySelectorAll('details').forEach(e => e.open = true);
  look('open');
  for (const e of page.querySelectorAll('a, summary')) if (e.tabIndex < 0) wrong.push('no key reaches ' + e.outerHTML.slice(0, 80));
  for (const e of page.querySelectorAll('[role=img], [role=region], nav')) if (!e.getAttribute('aria-label')) wrong.push('no label: ' + e.outerHTML.slice(0, 80));
  if (page.scripts.length) wrong.push('scripts');
  for (const e of page.querySelectorAll('[src], [href], [data], [srcset]')) {
    const from = ['src', 'href', 'data', 'srcset'].map(name => e.getAttribute(name)).find(value => value !== null);
    if (!from.startsWith('#') && !from.startsWith('data:')) wrong.push('loaded: ' + from);
  }
  if (!page.querySelector('details') || !page.querySelector('svg.network')) wrong.push('an empty page');
  if (seen.getComputedStyle(page.body).backgroundColor !== 'BACKGROUND') wrong.push('background ' + seen.getComputedStyle(page.body).backgroundColor);
  said.textContent = wrong.length ? wrong.join('\n') : 'all right';
};
</script>"#;

/// A scheme of colours: what Chromium calls it, and the page's background in it.
#[derive(Clone, Copy)]
struct Scheme {
    name: &'static str,
    setting: &'static str,
    background: &'static str,
}

const SCHEMES: [Scheme; 2] = [
    Scheme {
        name: "light",
        setting: "1",
        background: "rgb(255, 255, 255)",
    },
    Scheme {
        name: "dark",
        setting: "0",
        background: "rgb(13, 17, 23)",
    },
];

fn browser() -> Option<PathBuf> {
    if let Some(named) = env::var_os("BITPROOF_BROWSER") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let path = env::var_os("PATH")?;
    let places = env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    places.into_iter().find(|place| place.is_file())
}

/// Opens a page in a new profile.
fn open(browser: &Path, page: &Path, scheme: Scheme, flags: &[&str]) -> Output {
    let profile = tempfile::tempdir().unwrap();
    let user = format!("--user-data-dir={}", profile.path().display());
    let colours = format!("--blink-settings=preferredColorScheme={}", scheme.setting);
    let always = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        &user,
        &colours,
    ];
    let url = format!("file://{}", page.display());
    Command::new(browser)
        .args(always)
        .args(flags)
        .arg(url)
        .output()
        .unwrap()
}

/// Returns what is wrong with the page at a width, and what the console says.
fn look(browser: &Path, folder: &Path, width: u32, scheme: Scheme) -> (String, String) {
    let watcher = WATCHER
        .replace("PAGE", "page.html")
        .replace("WIDTH", &width.to_string())
        .replace("HEIGHT", "900")
        .replace("BACKGROUND", scheme.background);
    let place = folder.join(format!("watch-{width}-{}.html", scheme.name));
    fs::write(&place, watcher).unwrap();
    let flags = [
        "--dump-dom",
        "--virtual-time-budget=10000",
        "--window-size=1400,1000",
    ];
    let run = open(browser, &place, scheme, &flags);
    let dom = String::from_utf8_lossy(&run.stdout).into_owned();
    let said = dom.split_once("<pre id=\"said\">").map(|(_, rest)| rest);
    let said = said.and_then(|rest| rest.split("</pre>").next());
    let log = String::from_utf8_lossy(&run.stderr).into_owned();
    let console = log.lines().filter(|line| line.contains("CONSOLE"));
    (said.unwrap_or(&dom).to_owned(), console.collect())
}

#[test]
fn the_page_is_right_at_every_width_and_in_both_schemes() {
    let Some(browser) = browser() else { return };
    for (names, page) in [
        ("plain", full_page(str::to_owned)),
        ("hostile", full_page(hostile)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("page.html"), page).unwrap();
        for scheme in SCHEMES {
            for width in [360, 1280] {
                let (said, console) = look(&browser, folder.path(), width, scheme);
                assert_eq!(said, "all right", "{names}, {width}, {}", scheme.name);
                assert_eq!(console, "", "{names}, {width}, {}", scheme.name);
            }
        }
    }
}

#[test]
fn the_watcher_sees_what_is_wrong() {
    let Some(browser) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let wide = "<div style='width:400px'>wide</div><a href='#x' tabindex=-1>no key</a>\
        <script>console.error('heard')</script><img src='there.svg'>";
    fs::write(folder.path().join("page.html"), wide).unwrap();
    let (said, console) = look(&browser, folder.path(), 360, SCHEMES[0]);
    for wrong in [
        "scrolls to 4",
        "no key reaches",
        "scripts",
        "loaded",
        "an empty page",
    ] {
        assert!(said.contains(wrong), "{wrong} is not seen: {said}");
    }
    assert!(
        console.contains("heard"),
        "the console is not heard: {console}"
    );
}

#[test]
fn the_page_is_drawn_where_that_is_asked_for() {
    let (Some(browser), Some(shots)) = (browser(), env::var_os("BITPROOF_SHOTS")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("page.html"), full_page(str::to_owned)).unwrap();
    for scheme in SCHEMES {
        for width in [360, 1280] {
            // A window is never narrower than 500 pixels; a frame can be.
            let frame = format!(
                "<!doctype html><body style='margin:0'><iframe src='page.html' \
                 style='border:0;width:{width}px;height:4000px'></iframe>"
            );
            let place = folder.path().join("frame.html");
            fs::write(&place, frame).unwrap();
            let shot = PathBuf::from(&shots).join(format!("report-{width}-{}.png", scheme.name));
            let to = format!("--screenshot={}", shot.display());
            let size = format!("--window-size={},4100", width.max(500));
            open(&browser, &place, scheme, &[&to, &size]);
            assert!(shot.is_file(), "{}", shot.display());
        }
    }
}
