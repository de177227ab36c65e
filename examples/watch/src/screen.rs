//! The picture: connections by state, the queue, waits, holders, and events.

use std::collections::VecDeque;
use std::time::Duration;

use latebind::{Histogram, Stats};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};

use crate::Watched;

/// How many past lengths of the queue are kept.
const HISTORY: usize = 200;

/// The state kept from one picture to the next.
#[derive(Default)]
pub(crate) struct Screen {
    waiting: VecDeque<u64>,
}

impl Screen {
    /// Draws a pool. `server` says how its server is, `help` names keys beside those of every pool.
    pub(crate) fn draw(
        &mut self,
        frame: &mut Frame<'_>,
        watched: &Watched,
        server: &'static str,
        help: &str,
    ) {
        let stats = watched.pool.stats();
        self.waiting.push_front(stats.waiting.into());
        self.waiting.truncate(HISTORY);
        let rows = [6, 5, 7, 14].map(Constraint::Length);
        let [top, queue, middle, events] = Layout::vertical(rows).areas(frame.area());
        frame.render_widget(connections(&stats, watched, server), top);
        frame.render_widget(self.queue(&stats), queue);
        let halves = Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]);
        let [left, right] = halves.areas(middle);
        frame.render_widget(times(watched), left);
        frame.render_widget(holders(watched, right), right);
        let lines: Vec<_> = watched.events.lines().into_iter().map(Line::from).collect();
        let help = format!(" {help}  s suspend  + - max_open  q quit ");
        let block = Block::bordered().title(" Events ").title_bottom(help);
        frame.render_widget(Paragraph::new(lines).block(block), events);
    }

    fn queue(&self, stats: &Stats) -> Sparkline<'_> {
        let title = format!(" Waiting: {} ", stats.waiting);
        Sparkline::default()
            .block(Block::bordered().title(title))
            .data(self.waiting.iter().copied())
            .style(Style::new().fg(Color::Yellow))
    }
}

/// One cell for each connection, by its state.
fn connections<'a>(stats: &Stats, watched: &Watched, server: &'static str) -> Paragraph<'a> {
    let cells = [
        ("in use", stats.in_use, "█", Color::Green),
        ("idle", stats.idle, "░", Color::Gray),
        ("dialing", stats.dialing, "▲", Color::Cyan),
        ("closing", stats.closing, "▼", Color::Red),
    ];
    let bar = cells.map(|(_, count, cell, color)| {
        Span::styled(cell.repeat(2 * count as usize), Style::new().fg(color))
    });
    let legend = cells.map(|(name, count, cell, color)| {
        Span::styled(format!("{cell} {name} {count}   "), Style::new().fg(color))
    });
    let free = "··".repeat(stats.max_open.saturating_sub(stats.open()) as usize);
    let state = match (server, watched.pool.is_suspended()) {
        (_, true) => "suspended".yellow(),
        ("server down", _) => server.red(),
        _ => server.green(),
    };
    let totals = format!(
        "lent {}, turned away {}; dials {} ({} failed), retired {}   ",
        stats.lent_total,
        watched.events.turned_away(),
        stats.dials_total,
        stats.dial_failed_total,
        stats.retired_total,
    );
    let lines = vec![
        Line::from_iter(bar.into_iter().chain([free.dark_gray()])),
        Line::from_iter(legend),
        Line::from(""),
        Line::from(vec![totals.into(), state]),
    ];
    let title = format!(" {}: open {} of {} ", watched.name, stats.open(), stats.max_open);
    Paragraph::new(lines).block(Block::bordered().title(title))
}

fn times<'a>(watched: &Watched) -> Paragraph<'a> {
    let histograms = watched.pool.histograms();
    let row = |name: &str, of: &Histogram| {
        let time = |q| of.quantile(q).map_or("-".to_owned(), short);
        Line::from(format!("{name:<6} {:>9} {:>9} {:>9}", time(0.5), time(0.99), time(1.0)))
    };
    let lines = vec![
        Line::from(format!("{:<6} {:>9} {:>9} {:>9}", "", "half", "99 %", "all")).bold(),
        row("wait", &histograms.wait),
        row("dial", &histograms.dial),
        row("hold", &histograms.hold),
    ];
    Paragraph::new(lines).block(Block::bordered().title(" Times, within "))
}

fn short(time: Duration) -> String {
    if time == Duration::MAX { "more".to_owned() } else { format!("{time:.1?}") }
}

fn holders<'a>(watched: &Watched, area: Rect) -> Paragraph<'a> {
    let holders = watched.pool.holders();
    let room = area.height.saturating_sub(2).into();
    let lines = holders.iter().take(room).map(|holder| Line::from(holder.to_string()));
    Paragraph::new(lines.collect::<Vec<_>>()).block(Block::bordered().title(" Holders "))
}
