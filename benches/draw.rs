//! Draws the spike and the held ramp of `time_to_connection` for the README, one run of each.

mod support;

use std::fmt::Write;
use std::fs;
use std::io;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use latebind::Pool;

use crate::support::{Pause, Peer};

const CALLERS: u32 = 50;
const IDLE: u32 = 5;
const DIAL: Duration = Duration::from_millis(150);

/// How long connections are counted: r2d2 opens its last after the time of 15 dials.
const WATCHED: Duration = Duration::from_millis(2_500);

struct Scenario {
    file: &'static str,
    title: &'static str,
    /// How long a caller keeps its connection; `None` is until all callers have one.
    hold: Option<Duration>,
}

const SCENARIOS: [Scenario; 2] = [
    Scenario {
        file: concat!(env!("CARGO_MANIFEST_DIR"), "/spike.svg"),
        title: "Spike: 50 callers at once, each for 2 ms",
        hold: Some(Duration::from_millis(2)),
    },
    Scenario {
        file: concat!(env!("CARGO_MANIFEST_DIR"), "/ramp.svg"),
        title: "Held ramp: 50 callers at once, and all keep theirs",
        hold: None,
    },
];

/// The result of one pool.
struct Run {
    name: &'static str,
    /// How long each caller waited, the shortest first.
    waits_ms: Vec<f64>,
    /// Seconds since the callers came, and the connections open from then on.
    opened: Vec<(f64, u32)>,
}

fn main() -> io::Result<()> {
    for scenario in &SCENARIOS {
        let runs = [run::<Pool<Pause>>(scenario), run::<r2d2::Pool<Pause>>(scenario)];
        fs::write(scenario.file, drawing(scenario, &runs))?;
        println!("{}", scenario.file);
        runs.iter().for_each(|run| println!("  {}", in_words(run)));
    }
    Ok(())
}

fn run<P: Peer>(scenario: &Scenario) -> Run {
    let pool = P::open(CALLERS, IDLE, DIAL);
    let start = Barrier::new(CALLERS as usize + 1);
    let end = Barrier::new(CALLERS as usize);
    let caller = || {
        start.wait();
        let asked = Instant::now();
        let connection = pool.get();
        let waited = asked.elapsed();
        match scenario.hold {
            Some(hold) => thread::sleep(hold),
            None => drop(end.wait()),
        }
        drop(connection);
        waited.as_secs_f64() * 1e3
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        start.wait();
        let opened = watch(&pool);
        let waits = callers.into_iter().map(|caller| caller.join().expect("no caller panics"));
        let mut waits_ms: Vec<_> = waits.collect();
        waits_ms.sort_by(f64::total_cmp);
        Run { name: P::NAME, waits_ms, opened }
    })
}

/// Records every change in the number of connections, to the millisecond, and the last number at
/// the end.
fn watch<P: Peer>(pool: &P) -> Vec<(f64, u32)> {
    let began = Instant::now();
    let mut opened = vec![(0.0, pool.opened())];
    while began.elapsed() < WATCHED {
        thread::sleep(Duration::from_millis(1));
        let now = pool.opened();
        if opened.last().is_some_and(|(_, before)| *before != now) {
            opened.push((began.elapsed().as_secs_f64(), now));
        }
    }
    opened.push((WATCHED.as_secs_f64(), pool.opened()));
    opened
}

fn in_words(run: &Run) -> String {
    let last_ms = run.waits_ms.last().expect("there are callers");
    let (_, opened) = run.opened.last().expect("it was watched");
    format!("{}: last served after {last_ms:.0} ms, {opened} open in the end", run.name)
}

// The drawing. Colour-blind readers can tell its colours apart, and one line is dashed because the
// lines may overlap. It has a background of its own, for light and dark pages.

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 330.0;
const TOP: f64 = 106.0;
const BOTTOM: f64 = 278.0;
const PANEL: f64 = 340.0;
const STROKES: [&str; 2] = [
    r##"stroke="#0b62c4" stroke-width="3""##,
    r##"stroke="#c2500a" stroke-width="2" stroke-dasharray="7 4""##,
];

/// An axis from 0 to `most`, with a mark at every `step`.
struct Axis {
    most: f64,
    step: f64,
}

impl Axis {
    /// The shortest axis that reaches `value` with at most five round marks.
    fn to(value: f64) -> Self {
        let magnitude = 10_f64.powf((value / 5.0).log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
        let step = steps.into_iter().find(|step| step * 5.0 >= value).unwrap_or(value);
        Self { most: (value / step).ceil() * step, step }
    }

    fn marks(&self) -> impl Iterator<Item = (f64, String)> {
        let decimals = usize::from(self.step < 1.0);
        let count = (self.most / self.step).round() as u32;
        (0..=count).map(move |n| {
            let value = f64::from(n) * self.step;
            let mark = if n == 0 { "0".to_owned() } else { format!("{value:.decimals$}") };
            (value / self.most, mark)
        })
    }
}

/// One line for each pool over a pair of axes.
struct Panel {
    left: f64,
    across: (&'static str, Axis),
    up: (&'static str, Axis),
    lines: [Vec<(f64, f64)>; 2],
}

fn drawing(scenario: &Scenario, runs: &[Run; 2]) -> String {
    let numbered = |run: &Run| {
        (1..).zip(&run.waits_ms).map(|(n, wait)| (f64::from(n), *wait)).collect::<Vec<_>>()
    };
    let waits = runs.each_ref().map(numbered);
    let longest = waits.iter().flatten().map(|(_, wait)| *wait).fold(0.0, f64::max);
    let panels = [
        Panel {
            left: 62.0,
            across: ("callers, the quickest first", Axis::to(CALLERS.into())),
            up: ("time to connection, ms", Axis::to(longest)),
            lines: waits,
        },
        Panel {
            left: WIDTH - 24.0 - PANEL,
            across: ("time since the callers came, s", Axis::to(WATCHED.as_secs_f64())),
            up: ("connections open", Axis::to(CALLERS.into())),
            lines: runs.each_ref().map(|run| stairs(&run.opened)),
        },
    ];

    let title = scenario.title;
    let given =
        format!("{IDLE} connections idle, {CALLERS} allowed, a dial takes {} ms", DIAL.as_millis());
    let words = runs.each_ref().map(in_words);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#24292f" role="img">
<title>{title}; {given}. {}. {}.</title>
<rect x="0.5" y="0.5" width="{}" height="{}" rx="6" fill="#ffffff" stroke="#d0d7de"/>
<text x="20" y="29"><tspan font-size="15" font-weight="bold">{title}</tspan><tspan dx="12" fill="#57606a">{given}</tspan></text>
"##,
        words[0],
        words[1],
        WIDTH - 1.0,
        HEIGHT - 1.0,
    );
    for ((words, stroke), left) in words.iter().zip(STROKES).zip([20.0, WIDTH / 2.0]) {
        put(&mut svg, format_args!(r#"<path d="M{left} 54h30" fill="none" {stroke}/>"#));
        put(&mut svg, format_args!(r#"<text x="{}" y="58">{words}</text>"#, left + 38.0));
    }
    for panel in &panels {
        panel.draw(&mut svg);
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self, svg: &mut String) {
        let (left, right) = (self.left, self.left + PANEL);
        let (across, up) = (&self.across.1, &self.up.1);
        let x = |share: f64| left + share * PANEL;
        let y = |share: f64| BOTTOM - share * (BOTTOM - TOP);

        for (share, mark) in up.marks() {
            let height = y(share);
            let colour = if share == 0.0 { "#57606a" } else { "#e4e8ec" };
            put(svg, format_args!(r#"<path d="M{left} {height:.1}H{right}" stroke="{colour}"/>"#));
            put(
                svg,
                format_args!(
                    r#"<text x="{}" y="{:.1}" text-anchor="end" font-size="12">{mark}</text>"#,
                    left - 8.0,
                    height + 4.0,
                ),
            );
        }
        for (share, mark) in across.marks() {
            let place = x(share);
            put(svg, format_args!(r##"<path d="M{place:.1} {BOTTOM}v5" stroke="#57606a"/>"##));
            put(
                svg,
                format_args!(
                    r#"<text x="{place:.1}" y="{}" text-anchor="middle" font-size="12">{mark}</text>"#,
                    BOTTOM + 19.0,
                ),
            );
        }
        put(
            svg,
            format_args!(
                r#"<text x="{left}" y="{}" font-weight="bold">{}</text>"#,
                TOP - 14.0,
                self.up.0,
            ),
        );
        put(
            svg,
            format_args!(
                r#"<text x="{}" y="{}" text-anchor="middle">{}</text>"#,
                left + PANEL / 2.0,
                BOTTOM + 39.0,
                self.across.0,
            ),
        );
        for (line, stroke) in self.lines.iter().zip(STROKES) {
            let points: Vec<_> = line
                .iter()
                .map(|(a, b)| format!("{:.1},{:.1}", x(a / across.most), y(b / up.most)))
                .collect();
            put(
                svg,
                format_args!(
                    r#"<polyline points="{}" fill="none" stroke-linejoin="round" {stroke}/>"#,
                    points.join(" "),
                ),
            );
        }
    }
}

/// The corners of a line that stays level until the number changes.
fn stairs(changes: &[(f64, u32)]) -> Vec<(f64, f64)> {
    let mut corners = Vec::new();
    let mut before = None;
    for &(at, opened) in changes {
        corners.extend(before.map(|before| (at, before)));
        corners.push((at, f64::from(opened)));
        before = Some(f64::from(opened));
    }
    corners
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a string takes everything");
}
