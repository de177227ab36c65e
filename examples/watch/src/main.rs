//! A pool, live in the terminal: `cargo run --release -p watch`.
//!
//! A load with faults runs at the same time. Keys: `k` kills all connections at the server, `d` takes the server down or up again,
//! `s` suspends the pool or resumes it, `+` and `-` change `max_open`, `q` quits. With `--once` it
//! prints one picture after a second, for use without a terminal.

mod load;
mod screen;

use std::error::Error;
use std::thread;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};

use crate::load::Load;
use crate::screen::Screen;

/// The time between two pictures.
const FRAME: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let load = Load::start()?;
    let mut screen = Screen::default();
    if std::env::args().any(|argument| argument == "--once") {
        thread::sleep(Duration::from_secs(1)); // so that there is something to see
        let mut terminal = Terminal::new(TestBackend::new(100, 32))?;
        terminal.draw(|frame| screen.draw(frame, &load))?;
        for line in terminal.backend().to_string().lines() {
            println!("{}", line.trim_matches('"'));
        }
        return Ok(());
    }
    let mut terminal = ratatui::init();
    let outcome = watch(&mut terminal, &mut screen, &load);
    ratatui::restore();
    outcome
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    load: &Load,
) -> Result<(), Box<dyn Error>> {
    loop {
        terminal.draw(|frame| screen.draw(frame, load))?;
        if !event::poll(FRAME)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('k') => load.server.kill_all(),
            KeyCode::Char('d') => load.server.toggle(),
            KeyCode::Char('s') if load.pool.is_suspended() => load.pool.resume(),
            KeyCode::Char('s') => load.pool.suspend(),
            KeyCode::Char('+') => load.resize(1)?,
            KeyCode::Char('-') => load.resize(-1)?,
            _ => {}
        }
    }
}
