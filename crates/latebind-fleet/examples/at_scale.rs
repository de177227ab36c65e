//! A thousand processes and five thousand slots, in virtual time: `cargo run --release --example at_scale`.
//!
//! The leases' own logic (`Holder`, `Book`) under a day's load in five minutes, with a deploy of a hundred
//! processes and a partition of a hundred others. Compared with fixed shares. Writes `at_scale.svg` beside it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::time::Duration;

use latebind_fleet::{Book, Demand, Holder, HolderId, Manners, Terms};

const PROCESSES: u64 = 1_000;
const LIMIT: u32 = 5_000;
const DAY: f64 = 300.0;
const STEP: Duration = Duration::from_millis(20);

/// Numbers by a seed, so that two runs are the same.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> u32 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.roll(), 0);
        while product > limit {
            product *= self.roll();
            count += 1;
        }
        count
    }
}

struct Process {
    holder: Holder,
    /// When it works hardest, as a part of a day, and how hard.
    peak: f64,
    load: f64,
    wants: u32,
    changes_at: f64,
    sessions: u32,
    idle_since: Duration,
    settling: Vec<(Duration, u32)>,
    allowed: (u32, Option<Duration>),
    lacks_since: Option<Duration>,
    /// When it starts and leaves.
    from: Duration,
    to: Duration,
    cut: (Duration, Duration),
}

/// A moment of the day: its second, and what was wanted, had and open then.
type Moment = (f64, f64, f64, f64);

#[derive(Default)]
struct Sums {
    wanted: f64,
    unmet: f64,
    unused: f64,
    asked: u64,
    waits: Vec<Duration>,
    most: u32,
    line: Vec<Moment>,
}

fn main() {
    let fixed = run(false);
    let leased = run(true);
    println!("| | fixed shares | leases |");
    println!("| --- | --- | --- |");
    let row = |name: &str, of: &dyn Fn(&Sums) -> String| {
        println!("| {name} | {} | {} |", of(&fixed), of(&leased));
    };
    row("connections wanted and not had", &|it| format!("{:.2} %", 100.0 * it.unmet / it.wanted));
    row("slots unused while a process lacked one, mean", &|it| format!("{:.0}", it.unused / DAY));
    row("a process lacked a slot for, median", &|it| format!("{:?}", part(&it.waits, 0.5)));
    row("99 of 100 for less than", &|it| format!("{:?}", part(&it.waits, 0.99)));
    row("how often", &|it| format!("{}", it.waits.len()));
    row("questions to the store, a second", &|it| format!("{:.0}", it.asked as f64 / DAY));
    row("most sessions at the server", &|it| format!("{}", it.most));
    let path = "crates/latebind-fleet/at_scale.svg";
    std::fs::write(path, plot(&fixed, &leased)).expect("it is run in the root of the repository");
}

fn part(waits: &[Duration], part: f64) -> Duration {
    let mut waits = waits.to_vec();
    waits.sort_unstable();
    let at = ((waits.len().max(1) - 1) as f64 * part) as usize;
    waits.get(at).copied().unwrap_or_default()
}

fn run(is_leased: bool) -> Sums {
    let manners = Manners::default();
    let terms = Terms { limit: LIMIT, lease: Duration::from_secs(10), settle: manners.settle };
    let (mut book, mut random) = (Book::first(terms), Random(7));
    let secs = Duration::from_secs_f64;
    let never = secs(DAY * 2.0);
    let mut processes: Vec<Process> = (0..PROCESSES + 100)
        .map(|nth| {
            // The last hundred replace the first hundred, one after the other, side by side for 3 s.
            let is_new = nth >= PROCESSES;
            let from =
                if is_new { secs(150.0 + (nth - PROCESSES) as f64 / 10.0) } else { secs(0.0) };
            let to = if nth < 100 { secs(153.0 + nth as f64 / 10.0) } else { never };
            let cut =
                if (100..200).contains(&nth) { (secs(220.0), secs(240.0)) } else { (never, never) };
            Process {
                holder: Holder::new(HolderId(nth + 1), manners),
                peak: (nth % 4) as f64 / 12.0,
                load: if nth % 10 == 0 { 12.0 } else { 2.5 },
                wants: 0,
                changes_at: 0.0,
                sessions: 0,
                idle_since: Duration::ZERO,
                settling: Vec::new(),
                allowed: (if is_leased { 0 } else { LIMIT / PROCESSES as u32 }, None),
                lacks_since: None,
                from,
                to,
                cut,
            }
        })
        .collect();
    let (mut sums, mut open, mut now) = (Sums::default(), 0_u32, Duration::ZERO);
    let mut heap: BinaryHeap<_> =
        processes.iter().enumerate().map(|(at, it)| Reverse((it.from, at))).collect();
    let (mut wanted_now, mut had_now, mut next_line) = (0_i64, 0_i64, 0.0);
    while let Some(Reverse((at, who))) = heap.pop() {
        if at.as_secs_f64() >= DAY {
            break;
        }
        // These numbers have held since the last event.
        let span = at.saturating_sub(now).as_secs_f64();
        let lacking = (wanted_now - had_now).max(0) as f64;
        sums.wanted += wanted_now as f64 * span;
        sums.unmet += lacking * span;
        sums.unused += lacking.min(f64::from(LIMIT.saturating_sub(open))) * span;
        now = at;
        let time = now.as_secs_f64();
        if time >= next_line {
            sums.line.push((time, wanted_now as f64, had_now as f64, f64::from(open)));
            next_line = time + 1.0;
        }

        let process = &mut processes[who];
        let (wanted, had) = (process.wants, process.wants.min(process.sessions));
        let before = process.sessions + settling(process);
        let leaves = process.to <= now;
        if leaves {
            process.wants = 0;
        } else if process.changes_at <= time {
            let hour = (time / DAY - process.peak) * std::f64::consts::TAU;
            let mean = process.load * (1.0 + 0.8 * hour.sin());
            process.wants = random.poisson(mean);
            process.changes_at = time + 1.0 + 2.0 * random.roll();
        }
        let (slots, until) = process.allowed;
        let has_ended = until.is_some_and(|until| until <= now);
        let allowed = if has_ended { 0 } else { slots };
        process.settling.retain(|(at, _)| *at > now);
        if process.wants >= process.sessions {
            process.idle_since = now;
        }
        // Beyond what it may have it closes, and what was idle for ten seconds.
        let is_cold = leaves || now.saturating_sub(process.idle_since) >= secs(10.0);
        let keeps = if is_cold { process.wants.min(allowed) } else { allowed };
        let closed = process.sessions.saturating_sub(keeps);
        process.sessions -= closed;
        if closed > 0 {
            process.settling.push((now + manners.settle, closed));
        }
        let room = allowed.saturating_sub(process.sessions + settling(process));
        process.sessions += process.wants.saturating_sub(process.sessions).min(room);
        let is_lacking = process.wants > process.sessions;
        match (is_lacking, process.lacks_since) {
            (true, None) => process.lacks_since = Some(now),
            (false, Some(since)) => {
                sums.waits.push(now - since);
                process.lacks_since = None;
            }
            _ => {}
        }
        open = open + process.sessions + settling(process) - before;
        sums.most = sums.most.max(open);
        wanted_now += i64::from(process.wants) - i64::from(wanted);
        had_now += i64::from(process.wants.min(process.sessions)) - i64::from(had);

        let mut next = secs(process.changes_at).min(process.to.max(now + STEP));
        if is_leased {
            let in_use = process.wants.min(process.sessions);
            let all = process.sessions + settling(process);
            let waiting = process.lacks_since.map_or(Duration::ZERO, |since| now - since);
            let demand =
                Demand { open: all, idle: all - in_use, wanted: process.wants - in_use, waiting };
            let turn = process.holder.turn(now, demand);
            process.allowed = turn.allow;
            next = next.min(turn.next);
            if let Some(mut ask) = turn.ask {
                if process.cut.0 <= now && now < process.cut.1 {
                    process.holder.failed(now);
                } else {
                    sums.asked += 1;
                    ask.sessions = Some(Vec::new());
                    let answer = book.ask(&ask, now);
                    // A question takes two milliseconds.
                    let later = now + Duration::from_millis(2);
                    process.holder.answered(now, later, &ask, &answer);
                    next = next.min(later);
                }
            }
        }
        if let Some((settled, _)) = process.settling.first() {
            next = next.min(*settled);
        }
        if !(leaves && process.sessions + settling(process) == 0) {
            heap.push(Reverse((next.max(now + Duration::from_millis(1)), who)));
        }
    }
    sums
}

fn settling(process: &Process) -> u32 {
    process.settling.iter().map(|(_, slots)| slots).sum()
}

/// The slots wanted, and those had with fixed shares and with leases, over the day.
fn plot(fixed: &Sums, leased: &Sums) -> String {
    let (width, height) = (720.0, 300.0);
    let most = f64::from(LIMIT) * 1.2;
    let x = |time: f64| 50.0 + time / DAY * (width - 70.0);
    let y = |slots: f64| height - 30.0 - slots / most * (height - 60.0);
    let path = |line: &[Moment], of: fn(&Moment) -> f64| {
        line.iter()
            .map(|it| format!("{:.1},{:.1}", x(it.0), y(of(it))))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let limit = y(f64::from(LIMIT));
    let _ = writeln!(
        svg,
        "<line x1=\"50\" x2=\"{:.1}\" y1=\"{limit:.1}\" y2=\"{limit:.1}\" stroke=\"#999\" stroke-dasharray=\"4\"/>",
        width - 20.0
    );
    let _ = writeln!(svg, "<text x=\"4\" y=\"{:.1}\">{LIMIT}</text>", limit + 4.0);
    for (line, of, colour, name, at) in [
        (path(&leased.line, |it| it.1), 0, "#bbb", "wanted", 60.0),
        (path(&fixed.line, |it| it.2), 1, "#c33", "had with fixed shares", 150.0),
        (path(&leased.line, |it| it.2), 2, "#27a", "had with leases", 330.0),
    ] {
        let _ = writeln!(
            svg,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\"/>",
            if of == 0 { 3 } else { 1 }
        );
        let _ = writeln!(svg, "<text x=\"{at}\" y=\"16\" fill=\"{colour}\">{name}</text>");
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\">a deploy of 100</text>",
        x(150.0),
        height - 10.0
    );
    let _ =
        writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">100 cut off</text>", x(220.0), height - 10.0);
    svg + "</svg>\n"
}
