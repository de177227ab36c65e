//! A pool as a picture in the terminal.
//!
//! `src/main.rs` is a program of its own with it. A program that wants the picture of its own pools
//! has a [`RecentEvents`] for each, sets its [observer](RecentEvents::observer), and hands the pool
//! and the events to [`Watched::new`].

mod events;
mod screen;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use latebind::{Dialer, Histograms, Holder, Pool, Stats};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};

pub use events::RecentEvents;
use screen::Screen;

/// The time between two pictures.
const FRAME: Duration = Duration::from_millis(100);

/// The size of a picture that is printed.
const PRINTED: (u16, u16) = (100, 32);

/// A pool, and what has happened to it.
pub struct Watched {
    name: String,
    pool: Box<dyn Subject>,
    events: Arc<RecentEvents>,
}

impl Watched {
    /// Watches a pool that tells `events` of what happens.
    pub fn new<D: Dialer>(name: &str, pool: &Pool<D>, events: Arc<RecentEvents>) -> Self {
        Self { name: name.to_owned(), pool: Box::new(pool.clone()), events }
    }
}

/// The part of a pool that does not depend on its dialer.
trait Subject {
    fn stats(&self) -> Stats;
    fn histograms(&self) -> Histograms;
    fn holders(&self) -> Vec<Holder>;
    fn is_suspended(&self) -> bool;
    fn suspend(&self, suspend: bool);
    fn resize(&self, by: i32);
}

impl<D: Dialer> Subject for Pool<D> {
    fn stats(&self) -> Stats {
        self.recent_stats()
    }

    fn histograms(&self) -> Histograms {
        self.histograms()
    }

    fn holders(&self) -> Vec<Holder> {
        self.holders()
    }

    fn is_suspended(&self) -> bool {
        self.is_suspended()
    }

    fn suspend(&self, suspend: bool) {
        if suspend { self.suspend() } else { self.resume() }
    }

    fn resize(&self, by: i32) {
        let max_open = self.recent_stats().max_open.saturating_add_signed(by).max(1);
        // Refused only where it contradicts another setting.
        let _ = self.resize(max_open);
    }
}

/// One picture of a pool, as text.
///
/// # Errors
///
/// Those of the terminal that is not there.
pub fn picture(watched: &Watched) -> io::Result<String> {
    let (width, height) = PRINTED;
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| Screen::default().draw(frame, watched, "", ""))?;
    let told = terminal.backend().to_string();
    Ok(told.lines().map(|line| line.trim_matches('"').trim_end().to_owned() + "\n").collect())
}

/// Shows the pools on the terminal, one at a time, until `q` is pressed or `on_key` breaks.
///
/// Keys: Tab shows the next pool, `s` suspends it or resumes it, `+` and `-` change its `max_open`.
/// `on_key` gets the others, and is called once for each picture in any case. It returns a text about
/// the server, if there is one to show; `help` names its keys.
///
/// # Errors
///
/// Those of the terminal.
pub fn show(
    pools: &[Watched],
    help: &str,
    mut on_key: impl FnMut(Option<char>) -> ControlFlow<(), &'static str>,
) -> io::Result<()> {
    let mut terminal = ratatui::init();
    let mut outcome = || -> io::Result<()> {
        let (mut screen, mut shown) = (Screen::default(), 0);
        let mut pressed = None;
        while let ControlFlow::Continue(server) = on_key(pressed.take()) {
            let watched = &pools[shown];
            terminal.draw(|frame| screen.draw(frame, watched, server, help))?;
            if !event::poll(FRAME)? {
                continue;
            }
            let Event::Key(key) = event::read()? else { continue };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => break,
                KeyCode::Tab => {
                    shown = (shown + 1) % pools.len();
                    screen = Screen::default();
                }
                KeyCode::Char('s') => watched.pool.suspend(!watched.pool.is_suspended()),
                KeyCode::Char('+') => watched.pool.resize(1),
                KeyCode::Char('-') => watched.pool.resize(-1),
                KeyCode::Char(other) => pressed = Some(other),
                _ => {}
            }
        }
        Ok(())
    };
    let outcome = outcome();
    ratatui::restore();
    outcome
}
